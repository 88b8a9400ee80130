"""A window of calls that several hosts share, in Redis and by the clock of Redis."""

from __future__ import annotations

from limits import RateLimitItem
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import RedisError

from .rate_limit import Count, Window, WindowFailed

LIMIT = 1.0
"""Seconds for connecting and for an answer, each."""


def connect(url: str) -> Redis:
    """A client for windows; ValueError for a URL that cannot be one."""
    # Redis may have closed a connection that was kept. One whose answer is late may have counted already.
    once_more = Retry(NoBackoff(), 1, supported_errors=(ConnectionFailed,))
    return Redis.from_url(url, socket_timeout=LIMIT, socket_connect_timeout=LIMIT, retry=once_more)


class RedisWindow(Window):
    """A list of microseconds for each caller, the oldest first, which Redis deletes when the last one is past."""

    PREFIX = "gateway:rates:v1:"

    # Redis' clock may be set back as well; a call that is dated after now says nothing then.
    _COUNT = """
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local amount, length = tonumber(ARGV[1]), tonumber(ARGV[2])
        local function at(place) return tonumber(redis.call('LINDEX', KEYS[1], place) or nil) end
        while at(0) and at(0) <= now - length do redis.call('LPOP', KEYS[1]) end
        while at(-1) and at(-1) > now do redis.call('RPOP', KEYS[1]) end
        local accepted = redis.call('LLEN', KEYS[1]) < amount
        if accepted then
            redis.call('RPUSH', KEYS[1], now)
            redis.call('PEXPIRE', KEYS[1], length / 1000)
        end
        return {accepted and 1 or 0, redis.call('LLEN', KEYS[1]), (at(0) or now) + length - now}
    """

    def __init__(self, item: RateLimitItem, client: Redis) -> None:
        self.item = item
        self.client = client
        self.script = client.register_script(self._COUNT)

    async def count(self, caller: str) -> Count:
        key = self.PREFIX + self.item.key_for(caller)
        try:
            accepted, used, wait = await self.script(
                [key], [self.item.amount, self.item.get_expiry() * 1_000_000]
            )
        except RedisError as error:
            raise WindowFailed(str(error)) from error
        return Count(bool(accepted), self.item.amount - used, wait / 1e6)
