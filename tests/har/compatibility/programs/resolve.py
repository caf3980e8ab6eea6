"""Prints what getaddrinfo gives for a name (argument 2) in a family (argument 1: 4, 6 or anything for both)."""

import socket
import sys

FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}
try:
    for entry in socket.getaddrinfo(sys.argv[2], 80, FAMILIES.get(sys.argv[1], socket.AF_UNSPEC), socket.SOCK_STREAM):
        print("address", entry[4][0])
except socket.gaierror as error:
    names = [name for name in ("EAI_NONAME", "EAI_NODATA", "EAI_AGAIN") if getattr(socket, name, None) == error.errno]
    print("failed", *(names or [error]))
