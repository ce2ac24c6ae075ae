"""Where Ollama listens, read from OLLAMA_HOST exactly as Ollama reads it.

Source: ollama 0.34.0, envconfig/config.go (`Host`, `ConnectableHost`, `Var`).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

DEFAULT_PORTS = {"http": "80", "https": "443"}
OLLAMA_PORT = "11434"


@dataclass(frozen=True, kw_only=True)
class Host:
    """An address of a server: `scheme://host:port/path`, without brackets around an IPv6 `host`.

    Attributes:
        scheme: `http` or `https`; another one is kept as written, and nothing can connect to it.
        host: A name or an address; empty and unspecified ones (0.0.0.0) are for binding only.
        port: Digits.
        path: Where a proxy has put the server, without the leading slash; mostly empty.
    """

    scheme: str
    host: str
    port: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read the value of OLLAMA_HOST; every text has a meaning, as for Ollama.

        Worked example:
            >>> Host.parse("0.0.0.0").url, Host.parse("https://example.com/ollama").url
            ('http://0.0.0.0:11434', 'https://example.com:443/ollama')
        """
        text = text.strip().strip("\"'").strip()
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest, default = "http", text, OLLAMA_PORT
            if text == "ollama.com":
                scheme, rest = "https", "ollama.com:443"
        else:
            default = DEFAULT_PORTS.get(scheme, OLLAMA_PORT)
        address, _, path = rest.partition("/")
        split = _split(address)
        host, port = split or (_bare(address), default)
        if not re.fullmatch(r"[+-]?[0-9]+", port) or not 0 <= int(port[:12]) <= 65535:
            port = default
        return cls(scheme=scheme, host=host, port=port, path=path)

    @classmethod
    def from_environment(cls) -> Host:
        """Read OLLAMA_HOST; unset means this machine's port 11434."""
        return cls.parse(os.environ.get("OLLAMA_HOST", ""))

    @property
    def url(self) -> str:
        """The address as one text, the path included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" + (f"/{self.path}" if self.path else "")

    def connectable(self) -> Host:
        """Give the address to connect to: the loopback where OLLAMA_HOST names an address for binding."""
        host = self.host or "127.0.0.1"
        address = _address(host)
        if address is not None and address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        return Host(scheme=self.scheme, host=host, port=self.port, path=self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        address = _address(self.connectable().host)
        return self.host.lower() == "localhost" or (address is not None and address.is_loopback)


def _split(text: str) -> tuple[str, str] | None:
    """Split `host:port` or `[host]:port`; None for every other text, as Go's net.SplitHostPort gives an error."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^\[\]:]*)", text)
    if match is None:
        return None
    return match[1] if match[1] is not None else match[2], match[3]


def _bare(text: str) -> str:
    """Give the host of a text without a port."""
    address = _address(text.strip("[]"))
    return str(address) if address is not None else text or "127.0.0.1"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None
