"""A fine-tuning script in the form that Unsloth's first notebooks have: settings of the data beside the trainer's arguments.

python examples/unsloth/finetune.py
"""

from pathlib import Path

from datasets import load_dataset

from agentloop.engine import FastLanguageModel, is_bfloat16_supported  # from unsloth
from agentloop.engine.trl import SFTTrainer, TrainingArguments  # from trl, from transformers

max_seq_length = 2048
rows = Path(__file__).parent / "rows.jsonl"

model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="google/gemma-3n-e4b-it",
    max_seq_length=max_seq_length,
    dtype=None,
    load_in_4bit=True,
)
model = FastLanguageModel.get_peft_model(
    model,
    r=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    lora_alpha=16,
    lora_dropout=0,
    bias="none",
    use_gradient_checkpointing="unsloth",
    random_state=3407,
    use_rslora=False,
    loftq_config=None,
)

prompt = """### Instruction:
{}

### Response:
{}"""


def formatting_prompts_func(examples):
    pairs = [(turns[0]["value"], turns[1]["value"]) for turns in examples["conversations"]]
    return {"text": [prompt.format(*pair) + tokenizer.eos_token for pair in pairs]}


dataset = load_dataset("json", data_files=str(rows), split="train").map(formatting_prompts_func, batched=True)

trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=dataset,
    dataset_text_field="text",
    max_seq_length=max_seq_length,
    dataset_num_proc=2,
    packing=False,
    args=TrainingArguments(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        warmup_steps=5,
        max_steps=20,
        learning_rate=2e-4,
        fp16=not is_bfloat16_supported(),
        bf16=is_bfloat16_supported(),
        logging_steps=1,
        optim="adamw_8bit",
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=3407,
        output_dir="outputs",
    ),
)
trainer_stats = trainer.train()
print(f"{trainer_stats.metrics['train_runtime']:.0f} seconds; the curves: tensorboard --logdir outputs")

FastLanguageModel.for_inference(model)
inputs = tokenizer([prompt.format("How long is a rod?", "")], return_tensors="pt").to(model.device)
outputs = model.generate(**inputs, max_new_tokens=16, use_cache=True)
print(tokenizer.batch_decode(outputs)[0])

model.save_pretrained("lora_model")
tokenizer.save_pretrained("lora_model")
