"""The local LLM judge of the tests is the pocket's own: pocket/twins/judge_server.py."""

from pocket.twins.judge_server import CONTENTS, FAILURES, HTML, VARIANTS, Asked, JudgeServer, error

__all__ = ["CONTENTS", "FAILURES", "HTML", "VARIANTS", "Asked", "JudgeServer", "error"]
