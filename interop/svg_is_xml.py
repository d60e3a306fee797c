#!/usr/bin/env python3
"""Are pictures XML, as a strict reader takes it?

Standard input is a JSON object: pictures as text, by name. The answer is a
JSON object on stdout: for each name what is wrong, or "" where nothing is.
"""

import json
import sys
from xml.dom.minidom import parseString
from xml.parsers.expat import ExpatError

SVG = "http://www.w3.org/2000/svg"


def problem(text):
    try:
        root = parseString(text.encode("utf-8")).documentElement
    except ExpatError as error:
        return str(error)
    if (root.namespaceURI, root.localName) != (SVG, "svg"):
        return f"its root is {root.tagName} of {root.namespaceURI}"
    return ""


def main():
    pictures = json.load(sys.stdin)
    print(json.dumps({name: problem(text) for name, text in pictures.items()}))


if __name__ == "__main__":
    main()
