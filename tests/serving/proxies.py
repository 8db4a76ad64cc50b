"""A proxy that isn't there: what asks it for something on this machine gets nothing."""

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
BROKEN_PROXIES = {
    **dict.fromkeys([*NAMES, *map(str.lower, NAMES)], "http://127.0.0.1:9"),
    **dict.fromkeys(["NO_PROXY", "no_proxy"], ""),
}
"""Environment variables, as they stand on many machines in China, there with a proxy that works."""
