"""Logs opened by inspect's own reader: all of one, its header alone, and its list of samples."""

from __future__ import annotations

import sys

from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries


def main(logs: list[str]) -> None:
    """Say what each log holds; an exception for one that inspect does not take."""
    for place in logs:
        log = read_eval_log(place)
        header = read_eval_log(place, header_only=True)
        listed = read_eval_log_sample_summaries(place)
        assert log.results is not None
        assert header.results == log.results
        assert log.samples is not None
        assert {each.id for each in listed} == {each.id for each in log.samples}
        scores = {
            score.name: {name: round(metric.value, 4) for name, metric in score.metrics.items()}
            for score in log.results.scores
        }
        print(f"{place}: {log.status}, {log.eval.model}, {len(log.samples)} samples, {scores}")


if __name__ == "__main__":
    main(sys.argv[1:])
