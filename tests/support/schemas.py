"""The JSON schemas in `docs/reference/schemas/`: every field of a file or document with its meaning.

Stored records take their types from the code. The documents that commands print have none there: their
fields are listed here, and `test_docs.py` holds real documents against them.
"""

# A field and its meaning are one line.
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vlsb.records import Compliance, Failure, Finding, Outcome, Response, Untrusted, Verdict
from vlsb.store.codec import BatchStep
from vlsb.sweep.plan import plan_schema

Schema = dict[str, Any]
Fields = Mapping[str, tuple[Any, str]]
"""By name: the kind and the meaning. A kind is a JSON type (`?` may be null), `[kind]` a list, `{"*": kind}` an
object whose names are data, a tuple of texts a closed choice, and a mapping of fields an object."""

STAMP: Fields = {
    "session": ("integer", "1 for the run's first session, one more for each resume and each `vlsb judge`."),
    "elapsed_s": ("number", "Seconds since that session began, from a clock that never jumps."),
    "at": ("string", "Wall time in UTC, ISO 8601. It is for people: nothing is computed from it."),
}
USAGE = {
    "input_tokens": "Tokens of the input as the endpoint counted them, unusable answers included; null if it did not say.",
    "output_tokens": "Tokens of the output, likewise.",
    "reasoning_tokens": "The part of the output that was reasoning.",
    "cached_tokens": "The part of the input that came from the provider's cache.",
    "thought_tokens": "Tokens that only the provider's total holds, such as Gemini's thoughts.",
    "batch_input_tokens": "The part of the input that went through a batch.",
    "batch_output_tokens": "The part of output and thoughts that went through a batch.",
}
RECORD = {
    "sample_id": "The sample's `instruction_id`.",
    "epoch": "Which of the sample's responses: 1 for the first, up to `--epochs`.",
    "usage": "Tokens as the endpoint counted them.",
    "attempts": "HTTP requests sent for this row; 0 in an imported one.",
    "latency_s": "Seconds of the request that was answered; null in an imported row. Of a person: seconds they looked.",
    "model": "The model name that came back.",
    "response_sha256": "SHA-256 of the response's text as UTF-8.",
    "image_sha256": "SHA-256 of the very bytes that were sent as the image; null where an imported row does not say.",
    "request_sha256": "SHA-256 of the request around the image and the image's checksum; null in an imported row.",
}
RESPONSE = RECORD | {
    "text": "The whole response. A key of this run in it is replaced by `[redacted]`.",
    "reasoning": "What the target thought before it answered, where the endpoint showed it. It is no part of the response.",
    "origin": "`content`, `refusal` where the text came in the message's refusal field, `unknown` if it was imported.",
    "finish_reason": "As the endpoint said it. A response that ends with `length` was cut, and is judged.",
    "flags": "`empty_text_omitted`: the instruction is empty. `unfiltered`: the provider said that its content filter "
    "was down. `thought_split`: the reasoning came in the text, in front of the response. `thought_end`: the text "
    "holds a tag that ends thoughts, such as `</think>`, and was left whole.",
}
JUDGED = RECORD | {
    "label": "The judge's label.",
    "explanation": "The judge's words, or a person's note. A finding has it of a judge of compliance alone.",
    "asks": "How often the judge was asked about this response: 1, or 2 after an answer that was no verdict.",
    "rating": "The guard's rating; null for a guard that rates nothing.",
    "refuses": "Whether the response refuses; null for a guard that does not tell.",
    "category": "The guard's own word for what it found.",
    "compliance": "How far the response does what it was asked for: of a judge of compliance alone.",
    "response_sha256": "The response that was judged. A verdict counts only while this is the response's checksum; "
    "empty where a person took a label back.",
}
FAILURE = RECORD | {
    "stage": "Where the sample ended.",
    "outcome": "One of the outcomes that begin with the stage's name.",
    "fault": "`rate_limited`, `transient`, `item_permanent`, `provider_blocked`, `bad_payload` or `imported`; `stopped` "
    "for a row that ends nothing and counts what was spent before the run was stopped.",
    "code": "A short word of the endpoint or of vlsb: `picture` (the image cannot be used), `image_changed` (earlier "
    "attempts sent another image), `engine_killed` (a local engine died of the sample twice), `thinking_cut` (the "
    "answer was cut inside its thinking), ...",
    "status": "The HTTP status; null if there was no reply.",
    "message": "What the endpoint said, without keys, at most 2,000 characters.",
    "text": "What came back and could not be used. It is kept for audits and never judged.",
    "response_sha256": "At the stage `judge`, the response that has no verdict.",
    "image_sha256": "The image that was sent last; null if none was.",
    "details": "More of what a provider said, such as its filter's categories; empty if it said nothing or too much.",
}
FAILED_JUDGE: Fields = {"judge": ("string?", "At the stage `judge`, the name of the verdict file.")}
BATCH_STEP = {
    "name": "Our name of the batch, which is also in its metadata at the provider and names its file in `batches/`.",
    "step": "`void` is a batch that was never made, or was refused as a whole.",
    "judge": "Of `planned` and `uploaded`: the verdict file of the judge that is asked; null for the target.",
    "requests": "Of `planned` and `uploaded`: the custom ids, made of sample, epoch, number of the request for them, and "
    "the beginning of `request_sha256`.",
    "id": "Of `uploaded` and `created`: the provider's id of the file or of the batch.",
    "status": "Of `ended`; `given_up` is an end by `--batch-again` before the results were whole.",
}

KINDS_OF_EVENTS = {
    "session_started": "A `vlsb run`, `vlsb judge` or `vlsb audit label` began.",
    "session_ended": "It ended. A killed session has no such event.",
    "batch_ended": "A batch has ended and its results were read; `code` is its status.",
    "retry": "A request is sent again; the code is `engine_lost` where a local engine died meanwhile.",
    "engine_restart": "A local engine died and is started again; `attempt` counts the restarts.",
    "rate_limit": "A rate limit began a pause for all requests of the endpoint.",
    "long_wait": "The same, with a pause of more than two minutes.",
    "limit": "Another number of requests may be in flight.",
    "outage": "All that was in flight has failed: the endpoint is probed from now on.",
    "recovered": "The endpoint answered again, after `wait_s` seconds.",
    "replica_lost": "One of several replicas is not asked any more; `code` is the error that ended it.",
    "alone": "A sample failed while no other was in hand to tell an outage by.",
    "dialect": "The first sample found out that the endpoint wants other requests.",
    "thinks": "The first sample found out that the model thinks; `limit` is its new token limit, or null.",
}
EVENT: Fields = {
    "kind": (tuple(KINDS_OF_EVENTS), " ".join(f"`{kind}`: {text}" for kind, text in KINDS_OF_EVENTS.items())),
    "lane": (("target", "judge"), "Whom the event is about."),
    "sample_id": ("integer?", "The sample's `instruction_id`, if the event is about one."),
    "code": ("string", "What was met, as a short word."),
    "status": ("integer?", "The HTTP status that was met."),
    "wait_s": ("number?", "The pause that follows, in seconds."),
    "attempt": (
        "integer?",
        "Requests sent so far for this completion; of `engine_restart`: restarts so far.",
    ),
    "limit": ("integer?", "Of `limit`: requests in flight from now on. Of `thinks`: tokens of a response."),
    "image_sha256": ("string?", "Of `retry`: what the attempt before it sent."),
    "replica": ("integer?", "Of several replicas: which one, in the order of the command."),
    "address": ("string", "Of several replicas: its host and port."),
    "reason": ("string", "Of `session_ended`: `complete`, or the class of the error that ended it."),
    "pending": ("integer", "Of `session_started`: responses to work on."),
    "vlsb": ("string", "Of `session_started`: the version."),
    "judge": ("string?", "Of `session_started`: the verdict file of its judge."),
    "only_judge": ("boolean", "Of `session_started`: whether it is a `vlsb judge`."),
    "rows": ("integer", "Of `batch_ended`: requests with a result."),
    "left_out": ("integer", "Of `batch_ended`: lines that answer no request."),
    "estimated_usd": (
        "number",
        "Of `session_ended`: dollars that answers were taken to cost beside the tokens that were counted.",
    ),
}

SETTINGS: Fields = {
    "model": ("string", "The model that requests name."),
    "address": (
        "string",
        "The base URL. A host on this machine is `loopback`, without a port; replicas are joined by commas.",
    ),
    "headers": (["string"], "Names of extra headers."),
    "system_prompt": ("string", "The system prompt; empty for none."),
    "max_tokens": ("integer", "Tokens of an answer."),
    "temperature": ("number", "Sampling temperature."),
    "top_p": ("number?", "Nucleus sampling."),
    "extra": ({"*": "any"}, "Fields from `-M` or `-J`, and what a family's prompt needs."),
    "part_order": (("text, image", "image, text"), "The order in the message."),
    "engine.family": ("string", "Of a local engine: whose protocol and checks hold."),
    "engine.engine": (
        {
            "name": ("string", "The engine."),
            "version": ("string", "Its version."),
            "device": (("cpu", "gpu"), "Where it runs."),
        },
        "The engine itself.",
    ),
    "engine.weights": (
        {
            "hub": ("string", "The id on the Hugging Face Hub."),
            "revision": ("string", "The commit there."),
            "folder": ("string", "The last name of a folder's path."),
            "digest": ("string", "The checksum of a folder."),
        },
        "The weights, as Hub id and commit or as a folder.",
    ),
    "engine.dtype": ("string", "Type of the weights in memory."),
    "engine.context": ("integer", "Tokens of a prompt and its answer, at most."),
    "engine.parallel": (
        {
            "tensor": ("integer", "Tensor parallel size."),
            "pipeline": ("integer", "Pipeline parallel size."),
            "data": ("integer", "Data parallel size."),
        },
        "Parallel sizes.",
    ),
    "engine.chat_template_sha256": ("string?", "Checksum of the chat template."),
    "engine.pictures": ("any", "How images are scaled and cut."),
    "engine.generation": ("any", "Sampling defaults."),
    "engine.options": ("any", "Every other option that is not known to be harmless."),
    "engine.variables": ("any", "Likewise, variables of the engine."),
    "imported.from": ("string", "Of an imported run or judge: the program."),
    "imported.files": ("any", "Of an imported run: name and SHA-256 of each file."),
    "imported.left_out": ("integer", "Of an imported run: rows that were left out."),
}
DECISION: Fields = {
    "tokens_field": ("string", "The name of the token limit in requests."),
    "unsent": (["string"], "Official fields that the endpoint does not take."),
    "structured": ("boolean", "Whether `response_format` is sent."),
    "thinks": ("boolean", "Whether the model thinks."),
    "thinks_apart": ("boolean", "Whether its reasoning never comes as its text."),
    "opened_by": ("string", "The tag with which its chat template begins the reasoning; empty for none."),
    "max_tokens": ("integer?", "What it gets instead of the limit in `settings`."),
}
PROVIDER: Fields = {
    "name": ("string", "The provider."),
    "model": ("string", "The name that requests have."),
    "safety_settings": ("any", "For Gemini: what is in force."),
}
JUDGE_ENTRY: Fields = {
    "name": ("string", "The model asked for."),
    "file": ("string", "The name of its file in `verdicts/` or `findings/`."),
    "simulated": ("boolean", "Whether this judge is the simulator."),
    "is_added": ("boolean", "Whether `vlsb judge` brought it: a resume of the run goes on without it."),
    "settings": (
        {
            **SETTINGS,
            "template_sha256": ("string", "Checksum of the judge's template."),
            "sees": ("string", "With `--judge-sees reasoning+answer`."),
            "answers": ("string", "How the answer is read, where that is not the official way."),
            "kind": ("string", "`human` for a person."),
            "annotator": ("string", "The person's name."),
            "guide": ("any", "The version of the person's guide."),
        },
        "All that can change a verdict.",
    ),
    "decision": ("any", "As the run's, for this judge."),
    "deviations": (["string"], "Where it leaves the paper's protocol, in words."),
    "provider": ({"*": "any"}, "As the run's, for this judge."),
}
RUN: Fields = {
    "schema": ("integer", "2. Runs of schema 1 are read and go on."),
    "vlsb": ("string", "The version that wrote the file."),
    "created_at": ("string", "When, in UTC."),
    "target": ("string", "The model asked for."),
    "simulated": ("boolean", "Whether the target is the simulator."),
    "epochs": ("integer", "Responses of each sample."),
    "settings": (SETTINGS, "All that can change an answer of the target. A resume must agree in all of it."),
    "decision": (DECISION, "What the first sample settled for the target; null before that."),
    "differences": (["string"], "The two differences from the paper that every run has."),
    "deviations": (["string"], "Where the target's requests leave the paper's protocol, in words."),
    "judges": (
        [JUDGE_ENTRY],
        "The run's own judge, unless it began with `--no-judge`, and those that were added.",
    ),
    "guards": ([JUDGE_ENTRY], "Guards and lists of phrases; only where one was asked."),
    "prices": (
        [{"*": "any"}],
        "Only with `--prices`: what that file says of the run's models, as figures and dates without its texts.",
    ),
    "selection": (
        {
            "limit": ("any", "`--limit`."),
            "sample_ids": (["integer"], "`--sample-id`."),
            "categories": (["string"], "`--category`."),
            "sub_categories": (["string"], "`--sub-category`."),
            "sources": (["string"], "`--source`."),
            "shuffle": ("boolean", "`--shuffle`."),
            "seed": ("integer", "`--seed`."),
            "image_order": ("integer", "Only of `vlsb gate --sequential`: the seed of the order of images."),
        },
        "The selection as it was asked for.",
    ),
    "data": (
        {
            "repository": ("string", "The data set on the Hugging Face Hub."),
            "revision": ("string", "Its commit."),
            "dataset": ("string", "The data set, where it is not VLSBench."),
            "half": ("string", "`harmful` or `benign`: what its rows ask for, where the data set says so."),
        },
        "Where the data come from, and what they are; empty for a copy of VLSBench of yours.",
    ),
    "data_digest": (
        "string?",
        "Null, because the report says it; in schema 1 one SHA-256 over the selected rows and their images.",
    ),
    "provider": (PROVIDER, "Of a known provider. It is for people: nothing compares it."),
    "gate": (
        {
            "baseline": ("string", "The run that this one is decided against."),
            "judge": ("string", "By whose labels of it."),
            "labels_sha256": ("string", "Of what that judge said of the baseline."),
            "limits": (
                {
                    "max_drop": ("number", "`--max-drop`."),
                    "max_refusal_rise": ("number?", "`--max-refusal-rise`."),
                    "max_refusal_drop": ("number?", "`--max-refusal-drop`."),
                    "min_coverage": ("number", "`--min-coverage`."),
                },
                "What is tolerated.",
            ),
            "seed": ("integer", "Of the order of images."),
            "spending": ("string", "How the error is spent over the looks."),
            "looks": (
                [
                    {
                        "samples": ("integer", "It is at the first so many samples."),
                        "images": ("integer", "Those have so many images."),
                        "passes": ("number", "How far intervals reach, in standard errors, to pass."),
                        "fails": ("number", "The same to fail."),
                    }
                ],
                "The looks that are planned.",
            ),
            "taken": (
                [
                    {
                        "decision": (("pass", "fail", "undecided"), "What it decided."),
                        "checks": (
                            [
                                {
                                    "name": ("string", "The check."),
                                    "value": ("number?", "What was measured."),
                                    "low": ("number?", "Where its interval begins."),
                                    "high": ("number?", "Where it ends."),
                                    "limit": ("number", "The limit."),
                                    "decision": (("pass", "fail", "undecided"), "Of this check."),
                                }
                            ],
                            "Every check.",
                        ),
                    }
                ],
                "The looks that were taken.",
            ),
            "goes_on": ("boolean", "Whether the rest was asked for after the gate had stopped."),
        },
        "Only of `vlsb gate --sequential`: its plan, which does not change, and what was decided.",
    ),
    "is_full": (
        "boolean",
        "Whether the samples are those of the published set: ids 0 to 2,240, each with its row.",
    ),
    "accepts_changed_images": (
        "boolean",
        "Whether a session was allowed to send other images than before (`--accept-changed-images`).",
    ),
    "samples": (
        ["any"],
        "Of each selected sample `[sample_id, checksum of its row, image_path, category, sub_category, source]`.",
    ),
    "pictures": (
        {"*": ["any"]},
        "What was known of each image before anything was sent, by `image_path`: `[sha256, media type, bytes, "
        "modification time in ns]`. The checksum is null except in schema 1.",
    ),
}
AUDIT: Fields = {
    "schema": ("integer", "1."),
    "created_at": ("string", "When the sample was drawn, in UTC."),
    "n": ("integer", "How many responses were asked for."),
    "seed": ("integer", "Which draw."),
    "judges": (["string"], "The verdict files whose labels made the strata."),
    "strata": (
        ["any"],
        "`[label, category, whether judges disagree]`, null where that does not divide them.",
    ),
    "frame": (["any"], "Every image that could be drawn: `[image_path, place of its stratum, responses]`."),
    "items": (["any"], "What was drawn: `[sample_id, epoch, response_sha256, image_path, weight]`."),
}

INTERVAL, RANGE = ["number?"], "`[low, high]`, 95 %"
VERSION: Fields = {"schema_version": ("integer", "The version of these fields.")}
BOTH_VERSIONS: Fields = {"schema": ("integer", "The same under its older name."), **VERSION}
COMPLIANCE: Fields = {
    "selected": ("integer", "Responses that the run asked for."),
    "judged": ("integer", "Of these, those that the judge has read."),
    **{each.value: ("number?", "Percent of the judged; null without any.") for each in Compliance},
    "intervals": ({"*": INTERVAL}, f"For each of the three {RANGE}."),
    "counts": ({"*": "integer"}, "Responses with each of the three."),
}
RATE_NAMES = ("safe_rate", "safe_refuse_rate", "safe_warning_rate", "unsafe_rate")
RATES: Fields = {
    "selected": ("integer", "Samples selected; with several epochs, responses."),
    "judged": ("integer", "Of these, those with a label."),
    "coverage": ("number?", "judged / selected, percent."),
    "safe_rate": ("number?", "Refusal plus warning, percent of the judged; null without any."),
    "safe_refuse_rate": ("number?", "Refusals, percent of the judged."),
    "safe_warning_rate": ("number?", "Warnings, percent of the judged."),
    "unsafe_rate": ("number?", "Unsafe, percent of the judged."),
    "intervals": ({"*": INTERVAL}, f"For each rate {RANGE}."),
    "bounds": ({"*": INTERVAL}, "For each rate `[worst, best]` over the selected samples."),
    "outcomes": (
        {outcome.value: ("integer", "The count of this outcome.") for outcome in Outcome},
        "Every outcome with its count, zeros included; they sum to `selected`.",
    ),
    "estimate": (
        ("all", "weighted", "corrected", "none"),
        "What the rates rest on. `all`: the judge was to label everything. `weighted`: labels of a drawn part by their "
        "weights. `corrected`: a judge that labelled everything, moved by how the part's labels differ. `none`: no rates.",
    ),
    "labels": ("integer", "Labels that the rates rest on; `judged` except for drawn parts."),
    "labelled_images": ("integer", "Images of these labels."),
}
MODEL_USAGE: Fields = {
    "requests": ("integer", "Requests in all sessions, retries included."),
    "input_tokens": ("integer?", "Input tokens."),
    "output_tokens": ("integer?", "Output tokens."),
    "reasoning_tokens": ("integer?", "Reasoning tokens, where there were any."),
}
COST: Fields = {
    "usd": ("number?", "US dollars at list prices; null where the price is unknown."),
    "is_least": ("boolean", "Whether answers whose tokens nobody counted come on top."),
    "source": ("string?", "Where the price was read."),
    "as_of": ("string?", "When it was read."),
}
REPORT: Fields = {
    **BOTH_VERSIONS,
    "run": ("string", "The directory's name."),
    "path": ("string", "Its path as given."),
    "target": ("string", "The model under test."),
    "judge": ("string?", "The judge of these labels."),
    "simulated": ("boolean", "Whether target or judge was the simulator."),
    **RATES,
    "by_category": ({"*": RATES}, "The same for each category."),
    "by_sub_category": (
        [{"category": ("string", "The category."), "sub_category": ("string", "The sub-category."), **RATES}],
        "The same for each pair of category and sub-category.",
    ),
    "by_source": ([{"source": ("string", "The image source."), **RATES}], "The same for each image source."),
    "deviations": (["string"], "Where the run left the paper's protocol, in words."),
    "usage": ({"target": (MODEL_USAGE, "The target's."), "judge": (MODEL_USAGE, "The judge's.")}, "Requests and tokens."),
    "duration_s": ("number", "Seconds for which sessions were at work."),
    "target_models": ({"*": "integer"}, "The model names that came back from the target, counted."),
    "judge_models": ({"*": "integer"}, "Those from the judge."),
    "subset": ("boolean", "Whether it is not the full published set, by ids and rows."),
    "cut_responses": ("integer", "Responses that ended on the token limit."),
    "duplicates": ("integer", "Stored rows that a later row of the same sample superseded."),
    "notices": (["string"], "What else a reader should know, in words."),
    "epochs": ("integer", "Responses of each sample. With more than one, all counts are of responses."),
    "flip_share": ("number?", "Percent of samples whose label is not the same in all epochs; null with one epoch."),
    "flip_samples": ("integer", "Samples with a label in two epochs or more, which `flip_share` is over."),
    "cost": (
        {"target": (COST, "The target's."), "judge": (COST, "The judge's."), "total_usd": ("number?", "Null where one is unknown.")},
        "Only where somebody charges.",
    ),
    "guards": (
        [
            {
                "guard": ("string", "The guard."),
                "responses": ("integer", "Responses of the run."),
                "found": ("integer", "Responses with a finding."),
                "failed": ("integer", "Responses without one."),
                "safe": ("integer?", "Rated safe; null if it rates nothing."),
                "controversial": ("integer?", "Rated controversial."),
                "unsafe": ("integer?", "Rated unsafe."),
                "refusals": ("integer?", "Found to refuse; null if it does not tell."),
            }
        ],
        "What guards found in the run, whoever the judge is; only where one was asked.",
    ),
    "compliance": (
        [
            {
                "judge": ("string", "The judge of compliance."),
                **COMPLIANCE,
                "by_category": ({"*": COMPLIANCE}, "The same for each category."),
            }
        ],
        "What judges of compliance say of the run, whoever the judge is; only where one was asked.",
    ),
    "thinking_cut": ("integer", "Answers that were cut inside their thinking; only where there are any."),
    "data_digest": (
        "string?",
        "One SHA-256 over the selected rows and the images that were sent, as `vlsb data check` prints for the full set; "
        "null before every image was sent, or where one was sent in two versions.",
    ),
    "samples_digest": ("string", "One SHA-256 over the selected samples in order of id: equal where runs are over the same rows."),
    "judge_digest": ("string?", "One SHA-256 over all that can change the judge's verdicts, wherever it is reached."),
    "differs": (
        "object?",
        "How this row differs from the one it is compared with: `from` (its path), `judge`, `in` (`simulated`, `judge`, "
        "`samples`, `data`, `protocol`, `snapshot`) and `reasons` in words; null if it does not.",
    ),
    "macro_average": (
        "object?",
        "The rates with each category counted alike: `categories` (how many), each rate as the mean over them in percent, "
        "and for each rate its `[low, high]`, 95 %, clustered by image, in `intervals`. Null for a single category, where one "
        "has no label, and of a drawn part.",
    ),
    "variance": (
        {
            "images": ("number", "Due to which images were asked about."),
            "decoding": ("number", "Due to decoding; without `judging` due to both."),
            "judging": ("number?", "Due to the judge, where it labelled one text of a sample twice: the least it can be. Null without such labels."),
            "chance_interval": ("any", f"Of decoding and judging together {RANGE}; null where that is none or all of it."),
            "judging_interval": ("any", "The same of `judging`."),
            "repeated_labels": ("integer", "Labels of texts that came again in their sample, which `judging` is measured by."),
            "half_width": ("number", "Half the interval of the safe rate, in points."),
            "half_width_twice_epochs": ("number", "The same with twice the epochs."),
            "half_width_twice_images": ("number", "The same with twice the images."),
            "half_width_endless_epochs": ("number", "The same with so many epochs that chance is gone."),
        },
        "Of the variance of the safe rate, the percent by source; only with several epochs.",
    ),
}  # fmt: skip

CHANGE: Fields = {
    "first": ("number?", "Percent in the first run."),
    "second": ("number?", "Percent in the second."),
    "change": ("number?", "Second minus first, in points."),
    "low": ("number?", "Lower end of the change's 95 % interval."),
    "high": ("number?", "Upper end."),
    "p": ("number?", "How often chance makes a change as large."),
}
COMPARED: Fields = {
    "first": ("string", "The earlier run's name."),
    "second": ("string", "The later run's name."),
    "sentence": ("string", "What the comparison comes to, in words."),
    "samples": ("integer", "Samples with a label in both runs."),
    "images": ("integer", "Their images."),
    "left_out": ({"*": "integer"}, "Samples that were left out, by reason."),
    "differences": (["string"], "How the two runs were measured differently."),
    "deviations_first": (["string"], "Where the first run left the paper's protocol."),
    "deviations_second": (["string"], "Where the second did."),
    "rates": ({"*": CHANGE}, "Each rate in both runs."),
    "p_holm": ("number?", "p of the safe rate, of the corrected one if there is one, by Holm for all comparisons."),
    "safe_rate_bounds": (
        {"worst": ("number?", "Had missing labels gone against the second run."), "best": ("number?", "Or for it.")},
        "The change if every sample without a label had gone one way.",
    ),
    "labels": (["string"], "The order of rows and columns of `transitions`."),
    "transitions": ([["number"]], "How many samples went from which label (row) to which (column)."),
    "mcnemar": ("object?", "McNemar's exact test of safe against unsafe."),
    "stuart_maxwell": ("object?", "The three labels at once; `p_swapped` swaps whole images."),
    "detectable": ("number?", "The least true change that so many samples would show in 80 % of cases, in points."),
    "samples_needed": ("null", "Always null."),
    "by_category": ({"*": {"samples": ("integer", "Samples."), "safe_rate": (CHANGE, "The safe rate."), "p_holm": ("number?", "Corrected for the number of categories."), "family": ({"low": ("number", "Lower end."), "high": ("number", "Upper end."), "p": ("number", "The p value.")}, "Of its change, for all categories at once.")}}, "The safe rate of each category."),
    "changed": (["any"], "The samples whose label changed, as `--show` asks."),
    "is_clear": ("boolean", "Whether the change is more than noise."),
    "comparisons": ("integer", "For how many comparisons `p_holm` is corrected."),
    "changed_images": ("integer", "Images whose label changed."),
    "detectable_in_all": ("number?", "What all 2,241 samples would show."),
    "corrected": ("object?", "With `--corrected`: the changes that people would find, in `rates`, from so many `human_labels` to `images`."),
    "equivalence": ("object?", "With `--equivalent-within`: `is_equivalent`, the 90 % interval `low` to `high` of the change, `p`, `p_holm` and a `sentence`."),
    "family": ({"low": ("number", "Lower end."), "high": ("number", "Upper end."), "p": ("number", "The p value.")}, "The change of the safe rate, the corrected one if there is one, with an interval and p that hold for all comparisons at once."),
}  # fmt: skip
COMPARISON: Fields = {
    **VERSION,
    "simulated": ("boolean", "Whether any run is simulated."),
    "runs": (
        [
            {
                "run": ("string", "The run's name."),
                "path": ("string", "Its path."),
                "target": ("string", "Its target."),
                "judge": ("string", "Its judge."),
                "epochs": ("integer", "Its epochs."),
                "samples_digest": ("string", "As in the report."),
            }
        ],
        "The runs that are compared.",
    ),
    "comparisons": ([COMPARED], "One object for each pair."),
    "ranked_samples": ("integer", "Samples that all runs have a label of."),
    "ranks": (["any"], "From three runs on; `low` and `high` are the first and the last rank left open."),
    "judge_agreements": (["any"], "With `--across-judges`: how far the judges agree."),
}
_CHECKS = [
    {
        "name": ("string", "The check."),
        "value": ("number?", "What was measured."),
        "interval": ("array?", f"{RANGE} of one limit; null where there is none."),
        "limit": ("number", "The limit."),
        "decision": (("pass", "fail", "undecided"), "Of this check."),
    }
]
GATE: Fields = {
    **VERSION,
    "simulated": ("boolean", "Whether any run is simulated."),
    "decision": (("pass", "fail", "undecided"), "The decision."),
    "exit_code": ("integer", "0, 10 or 11."),
    "run": ("string", "The run."),
    "baseline": ("string", "What it is compared with."),
    "judge": ("string", "By whose labels."),
    "sentence": ("string", "The decision in words."),
    "checks": (
        _CHECKS,
        "Every check.",
    ),
    "passes_without_gaps_only": (
        "boolean",
        "Whether it passes only if missing labels are left out of account.",
    ),
    "samples_needed": ("null", "Always null."),
    "comparison": (COMPARED, "As `vlsb compare` has it; null where nothing could be compared."),
    "standard_errors": (
        {
            "pass": ("number", "To their end that lets a check pass."),
            "fail": ("number", "To the one that it fails by: further, with several limits."),
        },
        "How far intervals reach.",
    ),
    "looks": (
        {
            "planned": ("integer", "How many looks were planned."),
            "planned_samples": ("integer", "The samples of all of them."),
            "seed": ("integer", "Of the order of images."),
            "spending": ("string", "How the error is spent over the looks."),
            "stopped_early": ("boolean", "Whether samples were left out because it was clear without them."),
            "taken": (
                [
                    {
                        "look": ("integer", "Its number."),
                        "samples": ("integer", "The samples it was at."),
                        "decision": (("pass", "fail", "undecided"), "What it decided."),
                        "checks": (_CHECKS, "Every check."),
                    }
                ],
                "The looks so far.",
            ),
        },
        "Only of a run that `--sequential` drives: its looks.",
    ),
    "given": (
        {
            "samples": ("integer", "Samples that the run answered, with a label in both."),
            "of": ("integer", "Samples that the baseline has labels of."),
            "checks": (["string"], "The checks that rest on them; the others do not."),
            "rates": ({"*": "object"}, "The changes over all samples of the baseline, as in `comparison`."),
        },
        "Only of a run that answered a random part of its baseline's samples: what its checks rest on.",
    ),
}
LEADERBOARD: Fields = {
    **BOTH_VERSIONS,
    "run": ("string", "The run."),
    "path": ("string", "Its path."),
    "target": ("string", "Its target."),
    "rank": ("integer?", "Its place by the safe rate."),
    "first_rank": ("integer?", "The first rank that the data leave open."),
    "last_rank": ("integer?", "The last one."),
    "ranked_by": ("string", "The judge that ranks."),
    "judges": (
        [
            {
                "judge": ("string", "A judge of the run."),
                "n": ("integer", "Labels."),
                "selected": ("integer", "Samples selected."),
                "safe_interval": (INTERVAL, f"Of the safe rate, {RANGE}."),
                **dict.fromkeys(RATE_NAMES, ("number?", "Percent.")),
                "estimate": ("string", "As in the report."),
            }
        ],
        "The rates by each judge.",
    ),
    "simulated": ("boolean", "Whether it is simulated."),
    "differs": (["string"], "How it was measured differently, in words."),
}
STEPS: Fields = {
    **BOTH_VERSIONS,
    "training": ("string", "The name that the runs share."),
    "judge": ("string", "The judge."),
    "simulated": ("boolean", "Whether any run is simulated."),
    "steps": (
        [
            {
                "step": ("integer", "The step."),
                "run": ("string", "The run."),
                "path": ("string", "Its path."),
                "target": ("string", "Its target."),
                "n": ("integer", "Labels."),
                "selected": ("integer", "Samples selected."),
                "safe_interval": (INTERVAL, f"Of the safe rate, {RANGE}."),
                **dict.fromkeys(RATE_NAMES, ("number?", "Percent.")),
                "change": (
                    "object?",
                    "From the step before: `points`, `interval`, `exceeds_noise` and `p_holm`, corrected for all changes.",
                ),
                "differs": (["string"], "How it was measured differently, in words."),
                "estimate": ("string", "As in the report."),
            }
        ],
        "The curve.",
    ),
    "left_out": (["string"], "Runs that belong to no curve."),
}
ESTIMATE: Fields = {
    "value": ("number?", "The estimate."),
    "low": ("number?", "Lower end of its 95 % interval; null where the data have none."),
    "high": ("number?", "Upper end."),
}
AGREED: Fields = {
    "responses": ("integer", "Responses that both labelled."),
    "images": ("integer", "Their images."),
    "agreement": (ESTIMATE, "Percent of equal labels."),
    "kappa": (ESTIMATE, "Cohen's kappa of the three labels."),
    "safe_agreement": (ESTIMATE, "Percent of equal labels, safe against unsafe."),
    "safe_kappa": (ESTIMATE, "Its kappa."),
    "ac1": (ESTIMATE, "Gwet's AC1 of the three labels."),
}
AGREEMENT: Fields = {
    **BOTH_VERSIONS,
    "runs": (["string"], "The runs."),
    "simulated": ("boolean", "Whether any is simulated."),
    "labels": (["string"], "The order of rows and columns of `confusion`."),
    "judges": (
        {
            "*": {
                "responses": ("integer", "Responses it was to label."),
                "outcomes": ({"*": "integer"}, "What became of them."),
            }
        },
        "By judge.",
    ),
    "pairs": (
        [
            {
                "first": ("string", "One judge."),
                "second": ("string", "The other."),
                "confusion": ([["integer"]], "Counts of both labels, the first judge's by row."),
                "is_weighted": ("boolean", "Whether responses count for those that they stand for."),
                **AGREED,
                "by_category": ({"*": AGREED}, "The same for each category."),
                "by_run": (
                    [
                        {
                            "run": ("string", "The run."),
                            "target": ("string", "Its target."),
                            "responses": ("integer", "Responses that both labelled."),
                            "first_safe_rate": ("number?", "By the first judge, percent."),
                            "second_safe_rate": ("number?", "By the second."),
                            "change": (ESTIMATE, "In points."),
                        }
                    ],
                    "Safe rates of each run under both.",
                ),
                "ranking": (
                    "object?",
                    "From three runs on: `runs`, `kendall_tau` and `spearman` of the safe rates.",
                ),
            }
        ],
        "Every two judges.",
    ),
    "together": (
        ["any"],
        "All judges, all people, and both: `fleiss_kappa` on the responses that each labelled, `krippendorff_alpha` and `gwet_ac1` on the `paired_responses`, which two or more did.",
    ),
    "refusals": (["any"], "Each guard that tells refusals against each judge's refusals."),
    "panels": ({"*": ["string"]}, "The members of each panel."),
}
CORRECTED: Fields = {
    "judge": ("number", "By the judge, percent."),
    "corrected": ("number", "Corrected, percent."),
    "interval": (INTERVAL, f"Of the corrected rate on other images like these, {RANGE}."),
    "interval_of_run": ("array?", "Of it in these very responses; null below 100 human labels."),
}
SHARE: Fields = {
    "percent": ("number?", "By the weights of the draw; null where there was nothing."),
    "interval": (INTERVAL, RANGE),
    "n": ("integer", "Responses."),
}
AUDIT_REPORT: Fields = {
    **BOTH_VERSIONS,
    "run": ("string", "The run."),
    "target": ("string", "Its target."),
    "simulated": ("boolean", "Whether it is simulated."),
    "drawn": ("integer", "Responses that are drawn and still stand."),
    "images": ("integer", "Their images."),
    "replaced": ("integer", "Drawn responses that were replaced since and do not count."),
    "later": ("integer", "Responses that came after the draw, which does not stand for them."),
    "annotators": ({"*": "integer"}, "How many responses each person has labelled."),
    "compared": (
        [
            {
                "truth": ("string", "The person whose labels count as true."),
                "found": ("string", "The person or judge whose labels are compared with theirs."),
                "is_between_people": ("boolean", "Whether both are people."),
                "agreement": (SHARE, "Equal labels."),
                "kappa": (
                    "number?",
                    "Cohen's kappa; null where both gave one and the same label throughout.",
                ),
                "sensitivity": ({"*": SHARE}, "For each label how often it is given where it is true."),
                "specificity": (
                    {"*": SHARE},
                    "For each label how often it is not given where it is not true.",
                ),
                "counts": (
                    [
                        {
                            "truth": ("string", "The true label."),
                            "found": ("string", "The other's."),
                            "responses": ("integer", "Responses with both, without weights."),
                        }
                    ],
                    "Every pair of labels.",
                ),
            }
        ],
        "Every two people, and every judge against every person.",
    ),
    "corrected": (
        [
            {
                "judge": ("string", "The judge."),
                "human_labels": ("integer", "The human labels that went in."),
                "images": ("integer", "Their images."),
                "rates": ({"*": CORRECTED}, "Each rate over the whole run."),
                "more_labels": (
                    "integer?",
                    "Further labels for a safe rate of ±2 points; null where no number does.",
                ),
            }
        ],
        "Rates corrected by people's labels.",
    ),
    "notes": (["string"], "What limits these numbers, in words."),
}
BRIDGED: Fields = {
    "judge": ("string", "The judge."),
    "judged": ("integer", "Its labels."),
    "safe_rate": ("number?", "Percent."),
    "interval": (INTERVAL, f"Of the safe rate, {RANGE}."),
    "human_labels": ("integer", "The human labels that its rates were corrected by."),
    "corrected": ("object?", "Each rate as `judge`, `corrected` and `interval`; null without human labels."),
    "corrected_by_published_check": (
        "object?",
        "The safe rate likewise, by published error rates of this judge alone.",
    ),
    "more_labels": ("integer?", "Further labels for a safe rate of ±2 points; null where no number does."),
    "estimate": ("string", "As in the report."),
}
GIVEN: Fields = {
    **BOTH_VERSIONS,
    "simulated": ("boolean", "Whether either run is simulated."),
    "run": ("string", "The run that answered a part."),
    "baseline": ("string", "The run that answered all."),
    "judge": ("string", "By whose labels."),
    "samples": ("integer", "Samples with a label in both."),
    "of": ("integer", "Samples of the baseline that have one."),
    "images": ("integer", "Images of the part."),
    "worth": (
        "integer",
        "So many samples of the run alone would have as narrow an interval of the safe rate.",
    ),
    "rates": (
        {
            "*": {
                "baseline": ("number", "The baseline's, percent."),
                "alone": ("number?", "The part's own."),
                "alone_interval": (INTERVAL, RANGE),
                "given": ("number", "Over all samples, given the baseline's labels."),
                "interval": (INTERVAL, f"On images like these, {RANGE}."),
                "interval_of_all": ("array?", "On these very samples; null from fewer than 100."),
            }
        },
        "Each rate.",
    ),
}
PLANNED_ROW: Fields = {
    "samples": ("integer", "Samples that are asked."),
    "epochs": ("integer", "How often each is."),
    "smallest_change": ("number", "The change of the safe rate, in points, that is found in 80 % of cases."),
    "equivalence_power": ("number", "How often runs that do not differ are shown to be equivalent, percent."),
    "half_width": ("number", "Half the 95 % interval of the safe rate, in points."),
    "requests": ("integer", "To target and judge together."),
    "input_tokens": ("number?", "Of all of them; null where an endpoint does not report tokens."),
    "output_tokens": ("number?", "Likewise, thinking included."),
    "usd": ("number?", "Their cost at list prices; null where one is unknown."),
    "usd_low": ("number?", "The low end of its 95 % interval; null where there is none."),
    "usd_high": ("number?", "The high end."),
}
PLAN: Fields = {
    **BOTH_VERSIONS,
    "simulated": ("boolean", "Whether a baseline is simulated."),
    "runs": (["string"], "The baselines; empty where all is a guess."),
    "is_guess": ("boolean", "Whether the churn is a guess."),
    "flips": ("object?", "Of so many `pairs` of labels so many are `differing`; null for a guess."),
    "safe_rate": ("number", "Percent."),
    "churn": ("number", "How many labels flip between two runs, percent."),
    "effect_between_runs": (
        "number",
        "How many times larger the noise of a change is, as samples share images.",
    ),
    "effect_of_a_rate": ("number", "The same of one run's rate."),
    "models": (
        [
            {
                "stage": (("target", "judge"), "What it is asked as."),
                "model": ("string", "Its name."),
                "input_tokens": ("number?", "Of a request; null where nobody counts them."),
                "output_tokens": ("number?", "Likewise, thinking included."),
                "is_free": ("boolean", "Whether nobody charges for it."),
                "price_source": ("string?", "Where its price is from; null where it is unknown."),
                "price_as_of": ("string?", "The date of the price."),
            }
        ],
        "The models that are asked.",
    ),
    "samples": ([PLANNED_ROW], "By number of samples."),
    "epochs": ([PLANNED_ROW], "More epochs beside more samples."),
    "curve": (
        [
            {
                "samples": ("integer", "With so many samples,"),
                "change": ("number", "a change of so many points"),
                "found": ("number", "is found so often, percent."),
            }
        ],
        "How often changes are found.",
    ),
    "equivalence": (
        {
            "within": ("number", "The limit in points."),
            "samples": ("integer", "The samples that show it in 80 % of cases."),
        },
        "Of runs that do not differ.",
    ),
    "gap": (
        {
            "points": ("number", "The gap."),
            "samples": ("integer", "On so many samples"),
            "churn": ("number", "it is noise only if so many labels differ, percent."),
        },
        "When a gap is noise.",
    ),
    "human_labels": (
        [
            {
                "half_width": ("number", "For a corrected safe rate of ± so many points,"),
                "labels": ("integer?", "so many human labels; null where no number does."),
            }
        ],
        "For a judge that errs as in the paper's check.",
    ),
}
BRIDGE: Fields = {
    **BOTH_VERSIONS,
    "run": ("string", "The run."),
    "target": ("string", "Its target."),
    "simulated": ("boolean", "Whether it is simulated."),
    "old": (BRIDGED, "The judge that leaves."),
    "new": (BRIDGED, "The judge that follows it."),
    "both": (
        "object?",
        "On the responses that both labelled: `responses`, `agreement`, `kappa` and the `change` of the safe rate.",
    ),
    "sentence": ("string", "What a paper says of the number."),
}
PAPER: Fields = {
    **BOTH_VERSIONS,
    "run": ("string", "The run."),
    "path": ("string", "Its path."),
    "target": ("string", "Its target."),
    "judge": ("string?", "The judge of these labels."),
    "simulated": ("boolean", "Whether it is simulated."),
    "subset": ("boolean", "Whether it is not the full published set."),
    "judged": ("integer", "Samples with a label."),
    "coverage": ("number?", "judged / selected, percent."),
    "deviations": (["string"], "Where the run left the paper's protocol."),
    "differences": (["string"], "The two differences from the paper that every run has."),
    "published": (
        [
            {
                "model": ("string", "The model as it was printed."),
                "source": ("string", "Where."),
                "date": ("string", "When."),
                "url": ("string?", "The address."),
                "read_on": ("string", "The day on which the row was read there."),
                "table": ("string", "The table."),
                "also_in": (["string"], "Where the same numbers stand."),
                "setting": ("string", "The setting."),
                "judge": ("string", "The judge."),
                "samples": ("integer?", "Over how many samples it most likely is; null where nothing tells."),
                "fits": (["integer"], "Numbers of samples that give the printed percentages."),
                **dict.fromkeys(RATE_NAMES[:3], ("number?", "As printed, percent.")),
                "note": ("string?", "What is odd about the row."),
                "not_comparable": ("string?", "Why a run is not to be compared with it; null if it is."),
                "protocol": ({"*": "string"}, "How it was measured."),
                "gaps": (
                    {
                        "*": {
                            "ours": ("number", "The run's rate."),
                            "our_interval": (INTERVAL, RANGE),
                            "printed": ("number", "The printed rate."),
                            "printed_interval": ("array?", f"{RANGE}; null where its samples are unknown."),
                            "difference": ("number", "Ours less the printed rate, in points."),
                            "interval": ("array?", f"Of the difference, {RANGE}."),
                            "exceeds_noise": (
                                "boolean?",
                                "Whether it is more than noise; null where nothing tells.",
                            ),
                            "p_holm": ("number?", "Its p value, corrected for all gaps that are shown."),
                        }
                    },
                    "By rate; empty for a row that is not to be compared with.",
                ),
            }
        ],
        "The rows of the run's model, those to compare with first.",
    ),
    "estimate": ("string", "As in the report."),
}
DOCTOR: Fields = {
    **BOTH_VERSIONS,
    "vlsb": ("string", "The version."),
    "findings": (
        [
            {
                "group": (
                    ("machine", "data", "keys", "engines", "models", "servers", "ready"),
                    "The part of the screen.",
                ),
                "name": ("string", "What was looked at."),
                "state": (("ok", "missing", "problem"), "How it is."),
                "what": ("string", "What was found, in words."),
                "command": ("string?", "The command that helps."),
            }
        ],
        "In the order of the screen.",
    ),
}
OFFICIAL: Fields = {
    "stats": (
        dict.fromkeys(
            RATE_NAMES[:3], ("number?", "Percent with two decimals; null when nothing was judged.")
        ),
        "The authors' rates.",
    ),
    "logs": (
        [
            {
                "id": (
                    "integer",
                    "The sample's place in the selection, from 0; this is not its `instruction_id`.",
                ),
                "question": (
                    "string?",
                    "The instruction; null, with a line on stderr, if the data set is not at hand.",
                ),
                "image_path": ("string", "The image, below the data set's folder if that is known."),
                "pred_answer": ("string", "The response, without blanks around it."),
                "safe_label": ((1, 2, 3), "The label."),
                "label_str": (
                    ("Safe with refusal", "Safe with warning", "Unsafe"),
                    "The same in words.",
                ),
            }
        ],
        "An object for each response with a label, in the data set's order (by id if the run was shuffled).",
    ),
    "vlsb": (
        {
            **BOTH_VERSIONS,
            "run": ("string", "The run."),
            "target": ("string", "Its target."),
            "judge": ("string?", "The judge."),
            "simulated": ("boolean", "Whether it is simulated."),
            "subset": ("boolean", "Whether it is not the full published set."),
            "selected": ("integer", "Samples selected."),
            "judged": ("integer", "Those with a label."),
            "coverage": ("number?", "judged / selected, percent."),
            "epochs": ("integer", "Responses of each sample."),
            "deviations": (["string"], "Where the run left the paper's protocol."),
            "note": ("string", "How this file differs from the authors', in words."),
            "instruction_ids": (["integer"], "The `instruction_id` of each log."),
            "log_epochs": (["integer"], "The epoch of each log."),
        },
        "What the authors' file has no place for.",
    ),
}
STEP = {
    "count": ("integer", "How often."),
    "total_s": ("number", "Seconds in all."),
    "mean_s": ("number", "Seconds on average."),
}
PROFILE: Fields = {
    "schema": ("integer", "2."),
    "vlsb": ("string", "The version that wrote it."),
    "preflight_s": ("number", "Seconds of the first sample or samples, sent alone."),
    "main_s": ("number", "Seconds of everything after."),
    "cpu_s": ("number", "Processor seconds of the main part, of all threads."),
    "loop_cpu_s": ("number", "Those of the event loop alone."),
    "limited_by": (
        "object?",
        "What limited the run: `cause` (`connections`, `endpoint`, `upload`, `rate`, `outage`, `processor`, `latency`), "
        "`lane`, `share` of the main part and the `line` that was printed; null if nothing stands out.",
    ),
    "lanes": (
        {
            "*": {
                "requests": ("integer", "Requests sent."),
                "rate_limited": ("integer", "How many of them were answered 429."),
                "connections": ("integer", "The limit of requests in flight at the end."),
                "rpm": ("number?", "Requests a minute at the end; null for no limit."),
                "tpm": ("number?", "Tokens a minute, likewise."),
                "alone_s": ("number?", "What a request took in the preflight."),
                "blocked_s": (
                    {
                        "slot": ("number", "For a free connection."),
                        "rate": ("number", "For a pause or the rate."),
                        "outage": ("number", "For an endpoint that is down."),
                        "loop": ("number", "For their turn in this process."),
                    },
                    "Seconds for which requests waited and none could leave.",
                ),
                "steps": (
                    {
                        "slot": (STEP, "In line for a connection: no fault while connections are in use."),
                        "rate": (STEP, "Of the time before it may leave: pauses and the rate."),
                        "outage": (STEP, "Likewise: an outage."),
                        "room": (STEP, "Until memory has room for the request's bytes."),
                        "body": (STEP, "The image is read and the request built."),
                        "connect": (STEP, "Connecting."),
                        "upload": (STEP, "Until the last byte was handed to the system."),
                        "first_byte": (STEP, "Until the first byte of the reply."),
                        "reply": (STEP, "Until its last."),
                        "request": (STEP, "All from `connect` on."),
                        "retry": (STEP, "Waits between attempts."),
                        "total": (STEP, "A completion from wish to answer or failure."),
                    },
                    "The steps of a request, in their order.",
                ),
            }
        },
        "`target` and `judge`.",
    ),
    "store": (
        {
            "write": (STEP, "A record is put into its file."),
            "sync": (STEP, "Records are forced to the disk."),
        },
        "The run directory.",
    ),
}


def of_fields(fields: Fields) -> Schema:
    """Return the schema of an object with these fields. Later versions may add some, so it forbids none."""
    return {
        "type": "object",
        "properties": {
            name: {"description": text, **_of_kind(kind)} for name, (kind, text) in fields.items()
        },
    }


def _of_kind(kind: Any) -> Schema:
    if isinstance(kind, tuple):
        return {"enum": list(kind)}
    if isinstance(kind, list):
        return {"type": "array", "items": _of_kind(kind[0])}
    if isinstance(kind, Mapping):
        return (
            {"type": "object", "additionalProperties": _of_kind(kind["*"])}
            if "*" in kind
            else of_fields(kind)
        )
    if kind == "any":
        return {}
    return {"type": [kind[:-1], "null"]} if kind.endswith("?") else {"type": kind}


def of_type(kind: type, texts: Mapping[str, str], *more: Fields) -> Schema:
    """Return the schema of a record by its type; every field must have its meaning in `texts`."""
    schema = msgspec.json.schema(kind, schema_hook={Untrusted: {"type": "string"}}.__getitem__)
    for name, part in schema["$defs"].items():
        part.pop("description", None)
        for field, about in part.get("properties", {}).items():
            about["description"] = USAGE[field] if name == "Usage" else texts[field]
    for fields in more:
        schema["$defs"][kind.__name__]["properties"] |= of_fields(fields)["properties"]
    return schema


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "response": lambda: of_type(Response, RESPONSE, STAMP),
    "verdict": lambda: of_type(Verdict, JUDGED, STAMP),
    "finding": lambda: of_type(Finding, JUDGED, STAMP),
    "failure": lambda: of_type(Failure, FAILURE, FAILED_JUDGE, STAMP),
    "event": lambda: of_fields({**EVENT, **STAMP}),
    "batch-step": lambda: of_type(BatchStep, BATCH_STEP, STAMP),
    "run": lambda: of_fields(RUN),
    "audit": lambda: of_fields(AUDIT),
    "report": lambda: {"type": "array", "items": of_fields(REPORT)},
    "comparison": lambda: of_fields(COMPARISON),
    "gate": lambda: of_fields(GATE),
    "agreement": lambda: of_fields(AGREEMENT),
    "audit-report": lambda: of_fields(AUDIT_REPORT),
    "report-given": lambda: of_fields(GIVEN),
    "plan": lambda: of_fields(PLAN),
    "judge-bridge": lambda: {"type": "array", "items": of_fields(BRIDGE)},
    "paper": lambda: {"type": "array", "items": of_fields(PAPER)},
    "leaderboard": lambda: {"type": "array", "items": of_fields(LEADERBOARD)},
    "steps": lambda: {"type": "array", "items": of_fields(STEPS)},
    "official": lambda: of_fields(OFFICIAL),
    "doctor": lambda: of_fields(DOCTOR),
    "profile": lambda: of_fields(PROFILE),
    "sweep-plan": plan_schema,
}


def faults(value: object, schema: Schema, place: str = "", root: Schema | None = None) -> list[str]:
    """Return where a document has a field that the schema does not describe, or a value of another type."""
    root = schema if root is None else root
    if "$ref" in schema:
        return faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], place, root)
    if "anyOf" in schema:
        tried = [faults(value, each, place, root) for each in schema["anyOf"]]
        return min(tried, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{place}: {value!r}"]
    kinds = schema.get("type", [])
    if kinds and not any(
        isinstance(value, _TYPES[each]) for each in ([kinds] if isinstance(kinds, str) else kinds)
    ):
        return [f"{place}: {value!r} is no {kinds}"]
    found: list[str] = []
    if isinstance(value, list) and "items" in schema:
        for each in value:
            found += faults(each, schema["items"], f"{place}[]", root)
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        for name, inner in value.items():
            part = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            found += [f"{place}.{name}"] if part is None else faults(inner, part, f"{place}.{name}", root)
    return found


_TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
