"""Addresses of servers: who can reach them. Imports nothing slow, because the command line needs it at once."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Returns whether only programs on this machine can reach `host`, or come from it.

    Example:
        >>> from mi_kernels.integrations.vllm.addresses import is_loopback
        >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "0.0.0.0", "")]
        [True, True, True, True, False, False]
    """
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)  # Python before 3.13 says that ::ffff:127.0.0.1 is none
    return bool((mapped or address).is_loopback)
