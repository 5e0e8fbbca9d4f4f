"""One handling of a job, the same for every queue: a handler's exception becomes a verdict."""

import grpc

from services.notify.queue import Arrived, Handler, Retry, Verdict
from services.runtime.errors import ServiceError
from services.runtime.log import logger

_NOT_THE_JOBS_FAULT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_log = logger(__name__)


async def judge(handler: Handler, arrived: Arrived) -> Verdict:
    try:
        return await handler(arrived)
    except ServiceError as error:
        if error.code in _NOT_THE_JOBS_FAULT:
            return Retry(error.reason, counted=False)
        _log.warning("job_refused", job_id=arrived.job_id, tries=arrived.tries + 1, reason=error.reason)
        return Retry(error.reason)
    except Exception as error:
        _log.exception("job_failed", job_id=arrived.job_id, tries=arrived.tries + 1)
        return Retry(type(error).__name__)
