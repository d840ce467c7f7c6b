#!/usr/bin/env python3
"""Writes html_entities.inc: the named character references of HTML 5 as Python's `html.unescape` knows them, sorted by bytes.

    python3 src/text/make_html_entities.py > src/text/html_entities.inc
"""
from html.entities import html5

print("// Made by make_html_entities.py. {name without '&', replacement in UTF-8}")
for name in sorted(html5):
    print('{"%s", "%s"},' % (name, "".join("\\%03o" % byte for byte in html5[name].encode())))
