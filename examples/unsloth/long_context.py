"""A script for rows of up to 32,768 tokens on a card with 24 GB: packed rows, one at a time, per-layer embeddings on the host.

python examples/unsloth/long_context.py
"""

from pathlib import Path

from datasets import load_dataset

from agentloop.engine import FastModel  # from unsloth
from agentloop.engine.trl import SFTConfig, SFTTrainer  # from trl

max_seq_length = 32768
rows = Path(__file__).parent / "rows.jsonl"

model, tokenizer = FastModel.from_pretrained(
    model_name="unsloth/gemma-3n-E4B-it-unsloth-bnb-4bit",
    max_seq_length=max_seq_length,
    load_in_4bit=True,
    offload_embedding=True,
    use_gradient_checkpointing="unsloth",
    gpu_memory_utilization=0.9,
)
model = FastModel.get_peft_model(
    model,
    finetune_vision_layers=False,
    finetune_language_layers=True,
    finetune_attention_modules=True,
    finetune_mlp_modules=True,
    r=16,
    lora_alpha=16,
    lora_dropout=0,
    bias="none",
    use_gradient_checkpointing="unsloth",
    random_state=3407,
)


def text(example):
    turns = [f"{turn['from']}: {turn['value']}" for turn in example["conversations"]]
    return {"text": "\n".join(turns * 12)}


trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=load_dataset("json", data_files=str(rows), split="train").map(text),
    args=SFTConfig(
        dataset_text_field="text",
        max_seq_length=max_seq_length,
        packing=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        warmup_ratio=0.1,
        max_steps=3,
        learning_rate=2e-4,
        max_grad_norm=0.3,
        logging_steps=1,
        optim="paged_adamw_8bit",
        lr_scheduler_type="cosine",
        seed=3407,
        output_dir="outputs",
        report_to="none",
    ),
)
longest = max(map(len, trainer.train_dataset["input_ids"]))
trainer.train()
print(f"rows of up to {longest} tokens")
model.save_pretrained("lora_model")
