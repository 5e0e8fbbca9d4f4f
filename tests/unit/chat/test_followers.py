"""Which edges hear of whose contacts."""

from services.chat.followers import Followers
from services.chat.model import UserId
from services.chat.streams import TopicStream

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")


def test_the_streams_that_follow_any_of_them_are_found_once_each() -> None:
    followers, one, other, third = Followers(), TopicStream(), TopicStream(), TopicStream()
    followers.follow(one, [ALICE, BOB])
    followers.follow(other, [BOB])
    followers.follow(third, [CAROL])
    assert list(followers.find([ALICE, BOB])) == [one, other]
    assert list(followers.find([UserId("nobody")])) == []
    assert list(followers.all()) == [one, other, third]


def test_who_is_followed_no_more_is_not_found_by_that_stream() -> None:
    followers, one, other = Followers(), TopicStream(), TopicStream()
    followers.follow(one, [ALICE, BOB])
    followers.follow(other, [ALICE])
    followers.unfollow(one, [ALICE, CAROL])
    followers.unfollow(one, [ALICE])
    assert list(followers.find([ALICE])) == [other]
    assert list(followers.find([BOB])) == [one]


def test_following_again_changes_nothing() -> None:
    followers, one = Followers(), TopicStream()
    followers.follow(one, [ALICE])
    followers.follow(one, [ALICE])
    followers.unfollow(one, [ALICE])
    assert list(followers.find([ALICE])) == []


def test_nothing_is_remembered_of_a_stream_that_ended() -> None:
    followers, one, other = Followers(), TopicStream(), TopicStream()
    followers.follow(one, [ALICE, BOB])
    followers.follow(other, [BOB])
    followers.ended(one)
    followers.ended(one)
    assert list(followers.find([ALICE, BOB])) == [other]
    assert list(followers.all()) == [other]
    followers.ended(other)
    assert not followers._streams
    assert not followers._followed
