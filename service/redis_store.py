"""The store of idempotency keys for several hosts, in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .store import BUSY, Record, Store, StoreUnavailable


class RedisStore(Store):
    """Records as hashes with an expiry of Redis's own. What compares and sets is a Lua script, which Redis runs alone.

    The client repeats a command whose answer was lost, so scripts know what they have done already. One that runs later still
    finds that the record has another owner, or that what it stores has expired.
    """

    loses_answers = True

    PREFIX = "gateway:v1:"

    _INSERT = """
        local found = redis.call('HGET', KEYS[1], 'data')
        if found then return found end
        redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'data', ARGV[2])
        redis.call('PEXPIREAT', KEYS[1], ARGV[3])
        return false
    """
    _REPLACE = """
        local owner = redis.call('HGET', KEYS[1], 'owner')
        if owner ~= ARGV[4] then return owner == ARGV[1] and 1 or 0 end
        redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'data', ARGV[2])
        redis.call('PEXPIREAT', KEYS[1], ARGV[3])
        return 1
    """
    _DELETE = """
        if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end
    """

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(
            url, socket_timeout=BUSY, socket_connect_timeout=BUSY, retry=Retry(NoBackoff(), 1)
        )

    def now(self) -> float:
        """The clock of Redis, since hosts' clocks differ."""
        with self._asking() as client:
            seconds, microseconds = client.time()
            return float(seconds) + microseconds / 1e6

    def insert(self, record: Record) -> Record | None:
        with self._asking() as client:
            data = client.eval(self._INSERT, 1, *self._arguments(record))
            found = msgspec.msgpack.decode(data, type=Record) if data else record
            return None if found.owner == record.owner else found

    def replace(self, record: Record, owner: str) -> bool:
        with self._asking() as client:
            return bool(client.eval(self._REPLACE, 1, *self._arguments(record), owner))

    def delete(self, record: Record) -> None:
        with self._asking() as client:
            client.eval(self._DELETE, 1, self.PREFIX + record.id, record.owner)

    def doubts(self) -> list[str]:
        """What may make the server forget records, by what it says of itself (redis.io/docs/latest/commands/info)."""
        try:
            with self._asking() as client:
                info = client.info()
        except StoreUnavailable as error:
            return [f"whether it forgets keys cannot be told: INFO was refused ({error})"]
        doubts = []
        if (policy := info.get("maxmemory_policy")) != "noeviction":
            doubts.append(
                f"maxmemory-policy is {policy}: when memory is short, keys are forgotten, and a create can be made twice;"
                " noeviction refuses it instead"
            )
        if not info.get("aof_enabled"):
            doubts.append(
                "appendonly is off: a restart forgets the keys since the last snapshot, if there are any; set it to yes"
            )
        return doubts

    def _arguments(self, record: Record) -> tuple[str, str, bytes, int]:
        return (
            self.PREFIX + record.id,
            record.owner,
            msgspec.msgpack.encode(record),
            int(record.expires * 1000),
        )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[redis.Redis]:
        try:
            yield self.client
        except (redis.RedisError, msgspec.MsgspecError) as error:
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error
