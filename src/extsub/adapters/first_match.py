"""Which of many regular expressions matches each of many names first: a process of its own, which ends in time.

Reads ``{"seconds": ..., "expressions": [[method, expression], ...], "names": [...]}`` as JSON, where the method is
``match`` or ``fullmatch``, and writes ``{"first": [index or null, ...]}``, or ``{"broken": [index, reason]}``. Every
expression is tried on every name, so what ends here in time ends in PEFT, too.
"""

import faulthandler
import json
import re
import sys

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    faulthandler.dump_traceback_later(asked["seconds"], exit=True)  # nothing in Python stops re
    answer = {"first": [None] * len(asked["names"])}
    for index, (method, expression) in reversed([*enumerate(asked["expressions"])]):
        try:
            matches = getattr(re.compile(expression), method)
        except (re.error, OverflowError, RecursionError) as error:
            answer = {"broken": [index, str(error)]}
            break
        for place, name in enumerate(asked["names"]):
            if matches(name):
                answer["first"][place] = index
    json.dump(answer, sys.stdout)
