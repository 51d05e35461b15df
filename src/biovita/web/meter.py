"""Counts and times of requests, as text that Prometheus reads."""

from bisect import bisect_left
from collections import Counter, defaultdict

BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Meter:
    """Counts requests by route and status, refused files by reason, and seconds by route.

    Attributes:
        n_open: requests that are being answered.
    """

    def __init__(self) -> None:
        self.n_open = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds
        self.buckets[route][bisect_left(BUCKETS_S, seconds)] += 1

    def text(self, n_waiting: int) -> str:
        """Write all counts in Prometheus' text format 0.0.4; routes, statuses and reasons are our own words."""
        lines = ["# TYPE biovita_open_requests gauge", f"biovita_open_requests {self.n_open}"]
        lines += ["# TYPE biovita_waiting_requests gauge", f"biovita_waiting_requests {n_waiting}"]
        lines.append("# TYPE biovita_requests_total counter")
        for (route, status), n in sorted(self.requests.items()):
            lines.append(f'biovita_requests_total{{route="{route}",status="{status}"}} {n}')
        lines.append("# TYPE biovita_refused_files_total counter")
        lines += [f'biovita_refused_files_total{{reason="{reason}"}} {n}' for reason, n in sorted(self.refused.items())]
        lines.append("# TYPE biovita_request_seconds histogram")
        for route, counts in sorted(self.buckets.items()):
            so_far = 0
            for edge, n in zip((*BUCKETS_S, "+Inf"), counts, strict=True):
                so_far += n
                lines.append(f'biovita_request_seconds_bucket{{route="{route}",le="{edge}"}} {so_far}')
            lines.append(f'biovita_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}')
            lines.append(f'biovita_request_seconds_count{{route="{route}"}} {so_far}')
        return "\n".join(lines) + "\n"
