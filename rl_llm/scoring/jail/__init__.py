"""What runs in the process that `sandbox.py` starts, and only there: it shuts itself in, and then
runs what models wrote.

It is loaded by a bare Python without anything else of rl-llm, so that a start takes little time,
and imports the standard library alone. Three processes stand in a row. The first makes the
namespaces and waits. The second is process 1 in them: it takes cases from a socket as
lines of JSON, and answers each by a line. Each case is a third, forked from it, which
gives up all rights before it runs anything. Programs never run in the second, and what they are
expected to print never comes here.
"""
