#!/bin/sh
# An agent as a shell script: it asks once, without tools, and prints what the model says.
question=$(cat)
body=$(jq -n --arg model "$OPENAI_MODEL" --arg question "$question" \
    '{model: $model, messages: [{role: "user", content: $question}]}')
curl -sf "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "Content-Type: application/json" -d "$body" | jq -r '.choices[0].message.content'
