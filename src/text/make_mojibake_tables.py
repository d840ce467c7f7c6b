#!/usr/bin/env python3
"""Writes mojibake_tables.inc: the code pages that UTF-8 is often misread as, and the classes of characters by which ftfy tells
misread text. Needs the Python package ftfy (6.3; Robyn Speer, Apache-2.0), whose measured classes these are.

    python3 src/text/make_mojibake_tables.py > src/text/mojibake_tables.inc
"""
import re

from ftfy.badness import MOJIBAKE_CATEGORIES

PAGES = ("windows-1252", "windows-1251", "windows-1250", "windows-1253", "windows-1254", "windows-1257", "iso-8859-2", "mac-roman",
         "cp437")


def character(byte, page):
    """What a byte means; where it means nothing, the same as in Latin-1."""
    try:
        return bytes([byte]).decode(page)
    except UnicodeDecodeError:
        return chr(byte)


def ranges(expression):
    pattern = re.compile("[" + expression + "]")
    members = [code for code in range(0x10000) if pattern.match(chr(code))]
    while members:
        count = next((i for i in range(1, len(members)) if members[i] != members[0] + i), len(members))
        yield members[0], members[count - 1]
        members = members[count:]


print("// Made by make_mojibake_tables.py.")
print("#ifdef ZOE_CODE_PAGE  // name, then what the bytes 0x80 to 0xff mean in it")
for page in PAGES:
    print(f'ZOE_CODE_PAGE("{page}",')
    codes = [f"{ord(character(byte, page)):#06x}" for byte in range(0x80, 0x100)]
    for i in range(0, 128, 16):
        print(" " + ", ".join(codes[i:i + 16]) + (")" if i == 112 else ","))
print("#endif")
print("#ifdef ZOE_CHARACTERS  // class, first character, last character")
for name, expression in MOJIBAKE_CATEGORIES.items():
    for first, last in ranges(expression):
        print(f"ZOE_CHARACTERS({name}, {first:#x}, {last:#x})")
print("#endif")
