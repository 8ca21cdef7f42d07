"""Unsloth's notebook for conversations with Gemma 3n, as a script: ShareGPT's rows, Gemma's turns, the loss on answers alone.

python examples/unsloth/conversations.py
"""

from pathlib import Path

from datasets import load_dataset
from transformers import TextStreamer

from agentloop.engine import FastModel  # from unsloth
from agentloop.engine.chat_templates import (  # from unsloth.chat_templates
    get_chat_template,
    standardize_data_formats,
    train_on_responses_only,
)
from agentloop.engine.trl import SFTConfig, SFTTrainer  # from trl

rows = Path(__file__).parent / "rows.jsonl"

model, tokenizer = FastModel.from_pretrained(
    model_name="unsloth/gemma-3n-E4B-it",
    dtype=None,
    max_seq_length=1024,
    load_in_4bit=True,
    full_finetuning=False,
)
model = FastModel.get_peft_model(
    model,
    finetune_vision_layers=False,
    finetune_language_layers=True,
    finetune_attention_modules=True,
    finetune_mlp_modules=True,
    r=8,
    lora_alpha=8,
    lora_dropout=0,
    bias="none",
    random_state=3407,
)

tokenizer = get_chat_template(tokenizer, chat_template="gemma-3")
dataset = standardize_data_formats(load_dataset("json", data_files=str(rows), split="train"))


def formatting_prompts_func(examples):
    conversations = examples["conversations"]
    texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=False) for each in conversations]
    return {"text": [text.removeprefix("<bos>") for text in texts]}


dataset = dataset.map(formatting_prompts_func, batched=True)

trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=dataset,
    eval_dataset=None,
    args=SFTConfig(
        dataset_text_field="text",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        warmup_steps=5,
        max_steps=30,
        learning_rate=2e-3,  # ten times that of the notebook, for six rows
        logging_steps=10,
        optim="adamw_8bit",
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=3407,
        report_to="none",
    ),
)
trainer = train_on_responses_only(trainer)
labels = trainer.train_dataset[1]["labels"]
print("trained on:", repr(tokenizer.decode([label for label in labels if label != -100])))
trainer.train()

messages = [{"role": "user", "content": [{"type": "text", "text": "How long is a rod?"}]}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
).to(model.device)
model.generate(
    **inputs,
    max_new_tokens=16,
    temperature=1.0,
    top_p=0.95,
    top_k=64,
    streamer=TextStreamer(tokenizer, skip_prompt=True),
)

model.save_pretrained("gemma_3n_lora")
tokenizer.save_pretrained("gemma_3n_lora")
model, tokenizer = FastModel.from_pretrained(model_name="gemma_3n_lora", max_seq_length=2048, load_in_4bit=True)
print("loaded again:", model.lora.describe()["rank"])
