"""1,000 requests that schemathesis makes up from the wrapper's own OpenAPI, sent over real HTTP. One line of JSON.

Half keep to the schema and half break it; a tenth come without the key. Every answer is held to all of
schemathesis' checks: no 5xx, documented statuses, bodies as documented, broken requests refused, sound ones
accepted. `failures` has what was found wrong, by kind; `hangs` the requests that weren't answered in time.
"""

import json
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

SECONDS = 30  # an answer that takes longer is a hang
TOO_LONG = {"context_length_exceeded", "request_too_large"}  # what no schema can say


@dataclass
class Outcome:
    """What came of the requests sent so far."""

    statuses: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)
    hangs: int = 0
    slowest: float = 0.0

    @property
    def requests(self) -> int:
        return self.statuses.total() + self.hangs


def fuzz(address: str, api_key: str | None, mode: str, examples: int, outcome: Outcome) -> None:
    """Send `examples` chats to the server at `address`; `mode`: positive (to the schema) or negative."""
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    operation = schemathesis.openapi.from_url(f"{address}/openapi.json")["/v1/chat/completions"]["POST"]
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        derandomize=True,
        database=None,
    )
    def send(case) -> None:
        begin = time.monotonic()
        try:
            answer = case.call(headers=headers, timeout=SECONDS)
        except requests.Timeout:
            outcome.hangs += 1
            return
        outcome.slowest = max(outcome.slowest, time.monotonic() - begin)
        outcome.statuses[answer.status_code] += 1
        code = answer.json()["error"]["code"] if answer.status_code != 200 else None
        try:
            case.validate_response(answer)
        except schemathesis.errors.FailureGroup as group:
            if code not in TOO_LONG:
                kinds = ", ".join(type(e).__name__ for e in group.exceptions)
                asked = f"{case.headers} {case.body!r}"
                outcome.failures[f"{kinds}: {answer.status_code} {answer.text[:200]} to {asked[:600]}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send()


def main(requests: int) -> None:
    """Fuzz the shipped model with its adapter."""
    from lab_utils import models
    from lab_utils.serving import wrapper

    outcome, begin = Outcome(), time.monotonic()
    with wrapper.serve(models.path(models.SHIPPED), models.shipped_adapter(), max_tokens=8) as server:
        address = server.base_url.removesuffix("/v1")
        for mode in ("positive", "negative"):
            fuzz(address, server.api_key, mode, requests * 45 // 100, outcome)
            fuzz(address, None, mode, requests * 5 // 100, outcome)
        alive = bool(server.client().models.list().data)
    figures = {
        "requests": outcome.requests,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "server_errors": sum(count for status, count in outcome.statuses.items() if status >= 500),
        "hangs": outcome.hangs,
        "failures": dict(outcome.failures),
        "slowest_seconds": round(outcome.slowest, 2),
        "alive_afterwards": alive,
        "seconds": round(time.monotonic() - begin),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
