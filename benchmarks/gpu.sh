#!/usr/bin/env bash
# Local families at the size of the full data set on one GPU, against the engine's own benchmark.
#
#   benchmarks/gpu.sh [FAMILY...]          the paper's five without names; needs a GPU with 80 GB and `vlsb`'s clone
#
# What it reads from the environment:
#   OUT=DIR          where results go (default: gpu-results)
#   DATA_ROOT=DIR    a copy of VLSBench (default: the hub's, else a stand-in of the same size, made here)
#   SAMPLES=N        fewer samples, to try the script out (default: all)
#   WEIGHTS=DIR      other weights, with one family named (a tiny checkpoint, to try the script out)
#   RUN="uv run"     how `vlsb` and its Python are started
#   CONNECTIONS=N    requests in flight at most, for both (default: 256)
#   BENCH=PATH       the `vllm` command whose benchmark is the limit (default: the engine of llava_hf)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-gpu-results}
RUN=${RUN:-uv run}
CONNECTIONS=${CONNECTIONS:-256}
MAX_TOKENS=128
families=("$@")
[ ${#families[@]} -gt 0 ] || families=(llava llava_hf llava_next qwen2vl mllama)
mkdir -p "$OUT"

in_env() { $RUN "$@"; }
say() { printf '\n== %s\n' "$*" >&2; }

# Nothing that this started may outlive it.
sampler=
family=
finish() {
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
  [ -z "$family" ] || in_env vlsb engine stop "$family" >&2 || true
}
trap finish EXIT

# The current engine's `vllm`, whichever family is measured: the older one's benchmark sends no images.
bench_program() {
  in_env python -c 'import os
from vlsb.engines.hardware import gpus
from vlsb.engines.install import engine_prefix
from vlsb.engines.registry import Places
from vlsb.models.profile import CURRENT
print(engine_prefix(CURRENT, Places.of(os.environ), has_gpu=bool(gpus(os.environ))) / "bin" / "vllm")'
}

# The data set, in this order: the one given, the hub's, a stand-in with its numbers of rows and images.
data_options=()
choose_data() {
  if [ -n "${DATA_ROOT:-}" ]; then
    data_options=(--data-root "$DATA_ROOT")
  elif ! in_env vlsb data fetch; then
    say "the hub's data is not to be had: a stand-in of the same size is made in $OUT/stand-in"
    [ -f "$OUT/stand-in/data.json" ] || stand_in "$OUT/stand-in"
    data_options=(--data-root "$OUT/stand-in")
  fi
}

# 2,241 rows and 1,957 images of about 1.2 MB, 1024 x 1024: VLSBench's numbers with nothing of its content.
stand_in() {
  in_env python - "$1" <<'PYTHON'
import json
import os
import random
import sys
from pathlib import Path

from PIL import Image

root = Path(sys.argv[1])
(root / "imgs").mkdir(parents=True, exist_ok=True)
words = "What does this image show and how would you describe its colours to somebody in a letter".split()
generator = random.Random(0)
rows = []
for number in range(2241):
    name = f"imgs/{number % 1957}.jpg"
    if number < 1957:
        noise = Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3))
        noise.resize((1024, 1024)).save(root / name, quality=97)
    rows.append(
        {
            "instruction_id": number,
            "instruction": " ".join(generator.choices(words, k=30)) + "?",
            "image_path": name,
            "category": "Stand-in",
            "sub_category": "Stand-in",
            "source": "made up",
        }
    )
draft = root / "data.json.part"
draft.write_text(json.dumps(rows))
draft.replace(root / "data.json")
PYTHON
}

# The same images and words as the engine's own benchmark takes them, in the family's order of parts.
bench_rows() {
  in_env python - "$1" "$2" "${SAMPLES:-0}" "${data_options[@]:1}" <<'PYTHON'
import hashlib
import json
import sys
from pathlib import Path

from vlsb.data import fetch_dataset, load_dataset
from vlsb.models.profile import PROFILES

family, out, count = PROFILES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
if len(sys.argv) > 4:
    root = Path(sys.argv[4])
else:
    root = fetch_dataset(revision=None, offline=True).files
dataset = load_dataset(root)
samples = dataset.samples[: count or None]
images = out.parent / "images"
images.mkdir(parents=True, exist_ok=True)
with out.open("w", encoding="utf-8") as rows:
    for sample in samples:
        content = dataset.read(sample)
        file = images / f"{hashlib.sha256(content).hexdigest()}.img"
        file.write_bytes(content)
        text = {"type": "text", "text": sample.instruction.expose()}
        image = {"type": "image", "image": str(file.resolve())}
        parts = [image, text] if family.protocol.image_first else [text, image]
        rows.write(json.dumps({"content": [part for part in parts if part.get("text", " ")]}) + "\n")
PYTHON
}

# One line a second for each GPU: seconds since 1970, GPU, percent busy, MiB used. Nothing without a GPU.
sample_gpu() {
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --query-gpu=timestamp,index,utilization.gpu,memory.used --format=csv,noheader,nounits -l 1 >"$1" &
  sampler=$!
}

stop_sampling() {
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
  sampler=
}

# A fresh engine for each of the two, so that neither finds the other's images in a cache.
start_engine() {
  in_env vlsb serve "$1" --detach ${WEIGHTS:+--weights "$WEIGHTS"} >&2
  family=$1
}

stop_engine() {
  in_env vlsb engine stop "$1" >&2
  family=
}

# The address and the key, from the state file that only this user can read; the key goes by environment.
record() {
  in_env python -c 'import os, sys
from vlsb.engines.registry import Places, find_running
found = find_running(Places.of(os.environ), sys.argv[1])
print(found.base_url if sys.argv[2] == "url" else found.key.reveal())' "$1" "$2"
}

run_ours() {
  local folder=$1 name=$2 began=$SECONDS
  sample_gpu "$folder/ours.gpu.csv"
  # --no-judge: what is measured is the engine and what feeds it. A judge is another lane beside it.
  in_env vlsb run --model "$name" ${WEIGHTS:+--weights "$WEIGHTS"} --no-judge --output-dir "$folder/runs" --name "$name" \
    --max-connections "$CONNECTIONS" ${SAMPLES:+--limit "$SAMPLES"} "${data_options[@]}" >"$folder/ours.txt"
  stop_sampling
  echo $((SECONDS - began)) >"$folder/ours.wall"
  in_env vlsb report "$folder/runs/$name" --format json >"$folder/ours.json"
}

run_bench() {
  local folder=$1 name=$2 url key tokenizer extra
  bench_rows "$name" "$folder/bench.jsonl"
  url=$(record "$name" url)
  key=$(record "$name" key)
  # The weights as the engine was given them: for llava its converted folder.
  tokenizer=$(OPENAI_API_KEY=$key in_env python -c 'import json, os, sys, urllib.request
asked = urllib.request.Request(sys.argv[1] + "/models")
asked.add_header("Authorization", "Bearer " + os.environ["OPENAI_API_KEY"])
print(json.load(urllib.request.urlopen(asked, timeout=30))["data"][0]["root"])' "$url")
  extra=$(in_env python -c 'import json, sys
from vlsb.models.profile import PROFILES
print(json.dumps(dict(PROFILES[sys.argv[1]].protocol.fields)))' "$name")
  sample_gpu "$folder/bench.gpu.csv"
  OPENAI_API_KEY=$key HF_HUB_OFFLINE=1 "$BENCH" bench serve \
    --backend openai-chat --base-url "${url%/v1}" --endpoint /v1/chat/completions --model "$name" \
    --tokenizer "$tokenizer" --dataset-name custom_image --dataset-path "$folder/bench.jsonl" --custom-ensure-client-side-data \
    --custom-output-len "$MAX_TOKENS" --disable-shuffle --no-oversample --num-prompts "$(wc -l <"$folder/bench.jsonl")" \
    --max-concurrency "$CONNECTIONS" \
    --temperature 0 --top-p 1 --extra-body "$extra" --disable-tqdm \
    --save-result --result-dir "$folder" --result-filename bench.json >"$folder/bench.txt" 2>&1
  stop_sampling
}

# One row of the table in gpu.md.
summarize() {
  in_env python - "$1" "$2" <<'PYTHON'
import csv
import json
import sys
from pathlib import Path

folder, name = Path(sys.argv[1]), sys.argv[2]
[ours] = json.loads((folder / "ours.json").read_text())
bench = json.loads((folder / "bench.json").read_text())


def busy(file):
    rows = list(csv.reader(file.open())) if file.exists() else []
    shares = [float(row[2]) for row in rows if len(row) == 4 and row[2].strip().isdecimal()]
    return f"{sum(shares) / len(shares):.0f} %" if shares else "-"


wall = (folder / "ours.wall").read_text().strip()
# Without a judge, a sample that was answered is "not judged"; whatever else it is, it failed.
failed = ours["selected"] - ours["outcomes"]["not_judged"]
note = f" ({failed} of ours and {bench['failed']} of theirs failed)" if failed or bench["failed"] else ""
seconds, tokens = ours["duration_s"], ours["usage"]["target"]["output_tokens"]
print(
    f"| {name} | {ours['selected']:,} | {wall} | {seconds:,.1f} | {ours['selected'] / seconds:.1f} | {tokens / seconds:,.0f} "
    f"| {busy(folder / 'ours.gpu.csv')} | {bench['duration']:,.1f} | {bench['output_throughput']:,.0f} "
    f"| {busy(folder / 'bench.gpu.csv')} | {bench['duration'] / seconds:.2f}{note} |"
)
PYTHON
}

choose_data
if [ -z "${BENCH:-}" ]; then
  in_env vlsb engine install llava_hf >&2
  BENCH=$(bench_program)
fi
{
  echo "| family | samples | command s | run s | samples/s | tokens/s | GPU busy | bench s | bench tokens/s | GPU busy | share of the limit |"
  echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
} >"$OUT/table.md"
for each in "${families[@]}"; do
  folder=$OUT/$each
  mkdir -p "$folder"
  say "$each: installing"
  in_env vlsb engine install "$each" >&2
  say "$each: vlsb run"
  start_engine "$each"
  run_ours "$folder" "$each"
  stop_engine "$each"
  say "$each: vllm bench serve"
  start_engine "$each"
  run_bench "$folder" "$each"
  stop_engine "$each"
  summarize "$folder" "$each" >>"$OUT/table.md"
done
cat "$OUT/table.md"
