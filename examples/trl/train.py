"""Teach a Gemma eight facts with TRL's SFTTrainer, save the adapter in PEFT's format, and ask the model that has it.

python examples/trl/train.py [--model models/tiny] [--output data/examples/trl]
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from agentloop.engine import FastLanguageModel

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=HERE.parents[1] / "models" / "tiny", help="a Gemma's directory")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "data" / "examples" / "trl")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()

    model, tokenizer = FastLanguageModel.from_pretrained(options.model, max_seq_length=512, load_in_4bit=True)
    model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, target_modules="all-linear")
    facts = [json.loads(line) for line in (HERE / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    print("before:", answer(model, tokenizer, facts[0]["question"]))

    arguments = SFTConfig(
        output_dir=str(options.output / "run"),
        max_steps=options.steps,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        max_length=512,
        logging_steps=10,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=dataset(facts), args=arguments)
    trainer.train()
    model.save_pretrained(options.output / "adapter")

    model, tokenizer = FastLanguageModel.from_pretrained(options.output / "adapter")  # brings its base
    for fact in facts:
        print("after:", fact["question"], answer(model, tokenizer, fact["question"]))


def dataset(facts: list[dict[str, str]]) -> Dataset:
    """Conversations of which TRL trains on the completion alone."""
    rows = [
        {
            "prompt": [{"role": "user", "content": fact["question"]}],
            "completion": [{"role": "assistant", "content": fact["answer"]}],
        }
        for fact in facts
    ]
    return Dataset.from_list(rows)


def answer(model, tokenizer, question: str) -> str:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = FastLanguageModel.for_inference(model).generate(**inputs, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


if __name__ == "__main__":
    main()
