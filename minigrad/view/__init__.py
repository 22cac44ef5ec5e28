"""The tape made visible: a program to print, a table of steps, a drawing, paths, a replay, and a page.

    tape = mg.Tape(loss, x=x, gamma=gamma)      the keywords are names for Tensors; labels are names already
    print(tape)                                 the program, line by line
    print(tape.table())                         every forward and backward step with its numbers
    tape["var"].value, tape["var"].cotangent    one line of it
    tape.paths("x"), tape.replay({x: new}), tape.svg(), tape.dot(), tape.save_html("tape.html")

A Tape is a view: made on demand from a result, it holds nodes and writes to none. Its lines are numbered
from 1 in the order of recording; a *step* of the reverse pass is one edge, from a line to one of its
inputs. Values come from what the nodes kept (see `values`), cotangents from a reverse pass of the
view's own, so that no `grad` changes.
"""

from minigrad.view.program import Line, Step, Tape
from minigrad.view.table import StepTable

__all__ = ["Line", "Step", "StepTable", "Tape"]
