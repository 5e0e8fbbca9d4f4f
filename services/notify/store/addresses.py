"""An address as the few texts that a store keeps, and back."""

from services.notify.model import Address, ApnsAddress, FcmAddress, Platform, WebPushAddress


def parts_of(address: Address) -> tuple[str, ...]:
    match address:
        case WebPushAddress(endpoint, p256dh, auth):
            return (endpoint, p256dh, auth)
        case FcmAddress(token) | ApnsAddress(token):
            return (token,)


def address_of(platform: str, parts: list[str]) -> Address:
    match Platform(platform):
        case Platform.WEBPUSH:
            endpoint, p256dh, auth = parts
            return WebPushAddress(endpoint, p256dh, auth)
        case Platform.FCM:
            return FcmAddress(parts[0])
        case Platform.APNS:
            return ApnsAddress(parts[0])
