import ipaddress
import socket
import struct

import pytest

from provider_agent.coordinator import own_addresses
from provider_agent.coordinator.own_addresses import MAX_ADDRESSES


def test_addresses_are_of_this_machine_and_neither_loopback_nor_link_local() -> None:
    for text in own_addresses.own_addresses():
        address = ipaddress.ip_address(text)
        assert not address.is_loopback
        assert not address.is_link_local
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((text, 0))  # fails for an address of another machine


def test_addresses_can_be_limited_to_one_family() -> None:
    found = own_addresses.own_addresses(socket.AF_INET)
    assert all(ipaddress.ip_address(text).version == 4 for text in found)


@pytest.mark.parametrize("error", [OSError("refused"), AttributeError("AF_NETLINK"), struct.error])
def test_without_a_list_of_the_kernel_the_default_routes_count(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse() -> list[str]:
        raise error

    monkeypatch.setattr(own_addresses, "_listed_by_the_kernel", refuse)
    monkeypatch.setattr(own_addresses, "_of_default_routes", lambda: ["10.0.0.5", "10.0.0.5"])
    assert own_addresses.own_addresses() == ["10.0.0.5"]


def test_number_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"10.0.0.{number}" for number in range(1, 200)]
    monkeypatch.setattr(own_addresses, "_listed_by_the_kernel", lambda: many)
    assert own_addresses.own_addresses() == many[:MAX_ADDRESSES]


def test_address_of_the_network_is_not_cut_off_by_those_of_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    containers = [f"172.{number}.0.1" for number in range(17, 40)]
    monkeypatch.setattr(
        own_addresses, "_listed_by_the_kernel", lambda: [*containers, "192.168.1.5"]
    )
    monkeypatch.setattr(own_addresses, "_of_default_routes", lambda: ["192.168.1.5"])
    assert own_addresses.own_addresses() == ["192.168.1.5", *containers[: MAX_ADDRESSES - 1]]
