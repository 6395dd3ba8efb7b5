"""Replay: what would these rules have done to the payments of the past?

`fraudengine.replay.engine.replay` is the entry; `ReplayResult` (in `result`) is what it gives. Needs the extra
`fraudengine[replay]` (DuckDB, Ibis, Arrow); nothing on the payment path imports this package.
"""
