"""Where a user's pushes go: registering, listing and removing devices."""

from collections.abc import Mapping, Sequence

from services.notify.errors import BadRequest
from services.notify.model import Address, Device, DeviceId, Platform, UserId, WebPushAddress, platform_of
from services.notify.providers.endpoints import problem_of
from services.notify.providers.guarded import Guarded
from services.notify.providers.webpush import keys_problem
from services.notify.store import Devices
from services.runtime.clock import Clock


class DeviceService:
    """Args:
    max_devices: of one user; beyond it his oldest is dropped, as it most likely is no longer his.
    private_endpoints: see `WebPush`.
    """

    def __init__(
        self,
        store: Devices,
        providers: Mapping[Platform, Guarded],
        clock: Clock,
        *,
        max_devices: int,
        private_endpoints: bool,
    ) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._max_devices = max_devices
        self._private_endpoints = private_endpoints

    @property
    def platforms(self) -> Sequence[Platform]:
        return tuple(self._providers)

    @property
    def webpush_public_key(self) -> str:
        provider = self._providers.get(Platform.WEBPUSH)
        return "" if provider is None else provider.public_key

    async def register(self, user_id: UserId, device_id: DeviceId, address: Address) -> tuple[Device, bool]:
        """The device, and whether it is new. An address that was another user's is this one's from now on.

        Raises:
            BadRequest: the address is none, or its platform is not configured here.
        """
        platform = platform_of(address)
        if platform not in self._providers:
            raise BadRequest(problem=f"{platform.value} is not configured here")
        if isinstance(address, WebPushAddress):
            problem = None if self._private_endpoints else problem_of(address.endpoint)
            if problem is not None:
                raise BadRequest(problem=f"endpoint: {problem}")
            if (problem := keys_problem(address)) is not None:
                raise BadRequest(problem=problem)
        device = Device(device_id, user_id, address, self._clock.time_ms())
        return await self._store.register(device, max_devices=self._max_devices)

    async def list(self, user_id: UserId) -> Sequence[Device]:
        """Oldest first."""
        return (await self._store.find_devices([user_id])).get(user_id, ())

    async def remove(self, user_id: UserId, device_id: DeviceId) -> None:
        await self._store.remove(user_id, device_id)
