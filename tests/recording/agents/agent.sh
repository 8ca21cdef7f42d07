# An agent as a shell script: asks once, prints what the model says.
read -r question
curl -s "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -d "{\"model\": \"$OPENAI_MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'
[ "$1" = fail ] && { echo "no luck" >&2; exit 3; }
[ "$1" = leave ] && { sleep 27182 & }
exit 0
