"""Write adapters as the PEFT library does, and what the adapted model says.

usage: make_adapters.py MODEL_DIR OUT_DIR
MODEL_DIR is tests/golden_data/arch/llama3. OUT_DIR (tests/golden_data/adapters_llama3) gets
adapter_config.json, adapter_model.safetensors and logprobs.bin: float32 log-probabilities (nats) of
the token that follows the ids 4..19. Needs torch, transformers and peft (0.21.2 made it); the
test-suite needs none of them.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch
import transformers
from peft import LoraConfig, get_peft_model


def main() -> None:
    """Write the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager"
    )
    targets = ["q_proj", "k_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(args.out)
    with torch.no_grad():
        logits = model(torch.arange(4, 20)[None]).logits[0, -1].double()
    logprobs = torch.log_softmax(logits, -1).float().numpy()
    (args.out / "logprobs.bin").write_bytes(logprobs.astype("<f4").tobytes())
    path = args.out / "adapter_config.json"
    written = json.loads(path.read_text())
    written["base_model_name_or_path"] = args.model.name
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    (args.out / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
