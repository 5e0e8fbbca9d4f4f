"""Who attends, as the edges say; and what notify still has to hear of their reading."""

import random

from services.chat.attendance import Attendance
from services.chat.model import ConversationId, Seq, UserId

ALICE, BOB = UserId("alice"), UserId("bob")
C, D = ConversationId("gc"), ConversationId("gd")
ONE_EDGE, OTHER_EDGE = "one edge", "other edge"


def attending(*user_ids: UserId, stream: str = ONE_EDGE, head: int = 5) -> Attendance:
    attendance = Attendance()
    for user_id in user_ids:
        attendance.came(stream, C, user_id, head=Seq(head))
    return attendance


def test_nobody_attends_of_whom_nothing_was_said() -> None:
    attendance = attending(ALICE)
    assert list(attendance.find(C)) == [ALICE]
    assert list(attendance.find(D)) == []


def test_who_went_attends_no_more_and_may_go_again() -> None:
    attendance = attending(ALICE, BOB)
    attendance.went(ONE_EDGE, C, ALICE)
    attendance.went(ONE_EDGE, C, ALICE)
    attendance.went(ONE_EDGE, D, BOB)
    attendance.went("a stream of which nothing is known", C, BOB)
    assert list(attendance.find(C)) == [BOB]


def test_what_another_stream_says_holds_when_one_takes_it_back() -> None:
    attendance = attending(BOB)
    attendance.came(OTHER_EDGE, C, BOB, head=Seq(9))
    attendance.went(ONE_EDGE, C, BOB)
    assert list(attendance.find(C)) == [BOB]
    attendance.stream_ended(OTHER_EDGE)
    assert list(attendance.find(C)) == []


def test_a_stream_cannot_take_back_what_another_said() -> None:
    attendance = attending(BOB)
    attendance.went(OTHER_EDGE, C, BOB)
    attendance.unwatched(OTHER_EDGE, C)
    attendance.stream_ended(OTHER_EDGE)
    assert list(attendance.find(C)) == [BOB]


def test_an_unwatched_conversation_takes_its_words_with_it_and_no_others() -> None:
    attendance = attending(ALICE, BOB)
    attendance.came(ONE_EDGE, D, BOB, head=Seq(1))
    attendance.unwatched(ONE_EDGE, C)
    attendance.unwatched(ONE_EDGE, C)
    assert list(attendance.find(C)) == []
    assert list(attendance.find(D)) == [BOB]


def test_a_stream_that_ended_takes_all_its_words_with_it() -> None:
    attendance = attending(ALICE, BOB)
    attendance.came(ONE_EDGE, D, BOB, head=Seq(1))
    attendance.came(OTHER_EDGE, D, ALICE, head=Seq(1))
    attendance.stream_ended(ONE_EDGE)
    attendance.stream_ended(ONE_EDGE)
    assert list(attendance.find(C)) == []
    assert list(attendance.find(D)) == [ALICE]


def test_notify_hears_of_every_read_of_who_does_not_attend() -> None:
    attendance = attending(ALICE)
    assert attendance.take_read_notice(C, BOB, Seq(1))
    assert attendance.take_read_notice(C, BOB, Seq(1))
    assert attendance.take_read_notice(D, ALICE, Seq(1))


def test_who_attends_owes_notify_one_read_of_what_he_was_notified_of_before() -> None:
    attendance = attending(BOB, head=5)
    assert attendance.take_read_notice(C, BOB, Seq(3))
    assert attendance.take_read_notice(C, BOB, Seq(4))
    assert attendance.take_read_notice(C, BOB, Seq(5))
    assert not attendance.take_read_notice(C, BOB, Seq(5))
    assert not attendance.take_read_notice(C, BOB, Seq(6))


def test_a_read_beyond_what_he_was_notified_of_settles_it() -> None:
    attendance = attending(BOB, head=5)
    assert attendance.take_read_notice(C, BOB, Seq(8))
    assert not attendance.take_read_notice(C, BOB, Seq(9))


def test_saying_again_that_somebody_attends_owes_nothing_new() -> None:
    attendance = attending(BOB, head=5)
    attendance.take_read_notice(C, BOB, Seq(5))
    attendance.came(ONE_EDGE, C, BOB, head=Seq(9))
    attendance.came(OTHER_EDGE, C, BOB, head=Seq(9))
    assert not attendance.take_read_notice(C, BOB, Seq(9))


def test_who_was_away_owes_again_when_he_comes_back() -> None:
    attendance = attending(BOB, head=5)
    attendance.take_read_notice(C, BOB, Seq(5))
    attendance.stream_ended(ONE_EDGE)
    attendance.came(ONE_EDGE, C, BOB, head=Seq(9))
    assert attendance.take_read_notice(C, BOB, Seq(9))
    assert not attendance.take_read_notice(C, BOB, Seq(9))


def test_it_is_told_when_somebody_attends_no_more_and_only_then() -> None:
    attendance, ended = attending(ALICE, BOB), list[ConversationId]()
    attendance.ended.append(ended.append)
    attendance.came(OTHER_EDGE, C, BOB, head=Seq(9))
    attendance.came(ONE_EDGE, D, BOB, head=Seq(9))
    attendance.came(OTHER_EDGE, D, BOB, head=Seq(9))
    attendance.went(ONE_EDGE, C, BOB)
    assert ended == []
    attendance.went(ONE_EDGE, C, ALICE)
    attendance.went(ONE_EDGE, C, ALICE)
    assert ended == [C]
    attendance.unwatched(OTHER_EDGE, C)
    assert ended == [C, C]
    attendance.stream_ended(OTHER_EDGE)
    assert ended == [C, C]
    attendance.stream_ended(ONE_EDGE)
    assert ended == [C, C, D]


def test_who_is_told_of_an_end_finds_him_gone() -> None:
    attendance, found = attending(ALICE, BOB), list[list[UserId]]()
    attendance.ended.append(lambda conversation_id: found.append(list(attendance.find(conversation_id))))
    attendance.stream_ended(ONE_EDGE)
    assert found == [[BOB], []] or found == [[ALICE], []]


def test_whatever_is_said_in_any_order_somebody_attends_where_a_stream_says_so_and_nothing_is_kept_in_the_end() -> None:
    streams, conversations, users = ("s1", "s2", "s3"), (C, D), (ALICE, BOB)
    for seed in range(100):
        rng = random.Random(seed)
        attendance = Attendance()
        said: set[tuple[str, ConversationId, UserId]] = set()
        for _ in range(60):
            stream, conversation, user = rng.choice(streams), rng.choice(conversations), rng.choice(users)
            match rng.randrange(6):
                case 0:
                    attendance.stream_ended(stream)
                    said = {each for each in said if each[0] != stream}
                case 1:
                    attendance.unwatched(stream, conversation)
                    said = {each for each in said if each[:2] != (stream, conversation)}
                case 2:
                    attendance.went(stream, conversation, user)
                    said.discard((stream, conversation, user))
                case _:
                    attendance.came(stream, conversation, user, head=Seq(1))
                    said.add((stream, conversation, user))
            for each in conversations:
                assert set(attendance.find(each)) == {user for _, of, user in said if of == each}
        for stream in streams:
            attendance.stream_ended(stream)
        assert not attendance._conversations
        assert not attendance._said
