-- What each view and each of its columns means, for `agentloop sql` and notebooks: duckdb_views(), duckdb_columns().

COMMENT ON VIEW v_success IS 'The newest success score of each trajectory';
COMMENT ON COLUMN v_success.trajectory IS 'traj_…';
COMMENT ON COLUMN v_success.success IS '0 to 1';
COMMENT ON COLUMN v_success.version IS 'of the scorer';

COMMENT ON VIEW v_scores IS 'The newest value of each scorer of each trajectory';
COMMENT ON COLUMN v_scores.trajectory IS 'traj_…';
COMMENT ON COLUMN v_scores.scorer IS 'success, tokens, turns, tool_errors or a scorer of your own';
COMMENT ON COLUMN v_scores.version IS 'of the scorer';
COMMENT ON COLUMN v_scores.value IS 'the score';

COMMENT ON VIEW v_solved IS 'Each task as one iteration saw it';
COMMENT ON COLUMN v_solved.campaign IS 'campaign';
COMMENT ON COLUMN v_solved.iteration IS 'from 1; 0 is the measurement of the base';
COMMENT ON COLUMN v_solved.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_solved.policy IS 'policy_…, who acted';
COMMENT ON COLUMN v_solved.task IS 'task_…';
COMMENT ON COLUMN v_solved.samples IS 'trajectories';
COMMENT ON COLUMN v_solved.solved IS 'samples with a success of at least 0.5';
COMMENT ON COLUMN v_solved.success IS 'mean over the samples';

COMMENT ON VIEW v_groups IS 'Statistics of the samples of one task by one policy, whoever collected them';
COMMENT ON COLUMN v_groups.policy IS 'policy_…';
COMMENT ON COLUMN v_groups.task IS 'task_…';
COMMENT ON COLUMN v_groups.samples IS 'trajectories';
COMMENT ON COLUMN v_groups.mean IS 'of their success';
COMMENT ON COLUMN v_groups.variance IS 'of their success, that of the samples and not of the mean';
COMMENT ON COLUMN v_groups.actions IS 'distinct action sequences';

COMMENT ON VIEW v_advantages IS 'Success of a trajectory relative to its group';
COMMENT ON COLUMN v_advantages.trajectory IS 'traj_…';
COMMENT ON COLUMN v_advantages.policy IS 'policy_…';
COMMENT ON COLUMN v_advantages.task IS 'task_…';
COMMENT ON COLUMN v_advantages.success IS '0 to 1';
COMMENT ON COLUMN v_advantages.advantage IS 'in standard deviations of the group; 0 where it does not vary';

COMMENT ON VIEW v_rewards IS 'Success of a trajectory less what it cost';
COMMENT ON COLUMN v_rewards.trajectory IS 'traj_…';
COMMENT ON COLUMN v_rewards.policy IS 'policy_…';
COMMENT ON COLUMN v_rewards.task IS 'task_…';
COMMENT ON COLUMN v_rewards.success IS '0 to 1';
COMMENT ON COLUMN v_rewards.tool_errors IS 'share of the tool turns that were complaints';
COMMENT ON COLUMN v_rewards.length IS 'share of the token limit that was used';
COMMENT ON COLUMN v_rewards.reward IS 'success - 0.2 tool_errors - 0.1 length, at least 0';

COMMENT ON VIEW v_novelty IS 'How rare what the model did is';
COMMENT ON COLUMN v_novelty.trajectory IS 'traj_…';
COMMENT ON COLUMN v_novelty.policy IS 'policy_…';
COMMENT ON COLUMN v_novelty.task IS 'task_…';
COMMENT ON COLUMN v_novelty.actions IS 'hash of the action sequence: calls, unparsed turns, answer';
COMMENT ON COLUMN v_novelty.copies IS 'samples of the same policy at the same task that did the same';
COMMENT ON COLUMN v_novelty.novelty IS '1 / copies';

COMMENT ON VIEW v_tool_calls IS 'Each call of a tool with what came back';
COMMENT ON COLUMN v_tool_calls.trajectory IS 'traj_…';
COMMENT ON COLUMN v_tool_calls.position IS 'of the turn, from 0';
COMMENT ON COLUMN v_tool_calls.tool IS 'tool that was called';
COMMENT ON COLUMN v_tool_calls.arguments IS 'JSON';
COMMENT ON COLUMN v_tool_calls.result IS 'text that the model was shown';
COMMENT ON COLUMN v_tool_calls.error IS 'the complaint; NULL where it worked';

COMMENT ON VIEW v_tool_errors IS 'What tools and the parser complained about, most frequent first';
COMMENT ON COLUMN v_tool_errors.campaign IS 'campaign';
COMMENT ON COLUMN v_tool_errors.iteration IS 'iteration';
COMMENT ON COLUMN v_tool_errors.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_tool_errors.tool IS 'NULL where the call could not be parsed';
COMMENT ON COLUMN v_tool_errors.error IS 'as the model was told';
COMMENT ON COLUMN v_tool_errors.times IS 'how often';
COMMENT ON COLUMN v_tool_errors.trajectories IS 'in how many';

COMMENT ON VIEW v_flips IS 'What the challenger changed: the same task and sample before and after';
COMMENT ON COLUMN v_flips.campaign IS 'campaign';
COMMENT ON COLUMN v_flips.iteration IS 'iteration';
COMMENT ON COLUMN v_flips.verdict IS 'verdict_…';
COMMENT ON COLUMN v_flips.task IS 'task_…';
COMMENT ON COLUMN v_flips.question IS 'as asked';
COMMENT ON COLUMN v_flips.sample IS 'index of the sample, which has the same seed before and after';
COMMENT ON COLUMN v_flips.champion IS 'solved by the champion';
COMMENT ON COLUMN v_flips.challenger IS 'solved by the challenger';
COMMENT ON COLUMN v_flips.flip IS 'gained or lost';

COMMENT ON VIEW v_lineage IS 'Each row that an adapter was trained on and what produced it';
COMMENT ON COLUMN v_lineage.adapter IS 'adapter_…';
COMMENT ON COLUMN v_lineage.base IS 'base_…, fingerprint of the base model';
COMMENT ON COLUMN v_lineage.dataset IS 'data_…';
COMMENT ON COLUMN v_lineage.recipe IS 'that chose the row';
COMMENT ON COLUMN v_lineage.position IS 'in the dataset, from 0';
COMMENT ON COLUMN v_lineage.trajectory IS 'traj_…';
COMMENT ON COLUMN v_lineage.task IS 'task_…';
COMMENT ON COLUMN v_lineage.policy IS 'policy_… that produced it';
COMMENT ON COLUMN v_lineage.source IS 'adapter of that policy; NULL: the base';
COMMENT ON COLUMN v_lineage.shard IS 'path of the file with the tokens';

COMMENT ON VIEW v_iterations IS 'One line for each iteration';
COMMENT ON COLUMN v_iterations.campaign IS 'campaign';
COMMENT ON COLUMN v_iterations.iteration IS 'from 1; 0 is the measurement of the base';
COMMENT ON COLUMN v_iterations.champion IS 'adapter that it began with; NULL: the base';
COMMENT ON COLUMN v_iterations.tasks IS 'that were collected';
COMMENT ON COLUMN v_iterations.trajectories IS 'that were collected';
COMMENT ON COLUMN v_iterations.success IS 'mean of what was collected';
COMMENT ON COLUMN v_iterations.dataset IS 'data_… that was trained on';
COMMENT ON COLUMN v_iterations.rows IS 'of the dataset';
COMMENT ON COLUMN v_iterations.adapter IS 'adapter_…, the challenger';
COMMENT ON COLUMN v_iterations.champion_success IS 'struct of estimate, low, high';
COMMENT ON COLUMN v_iterations.challenger_success IS 'struct of estimate, low, high';
COMMENT ON COLUMN v_iterations.difference IS 'struct of estimate, low, high: challenger less champion';
COMMENT ON COLUMN v_iterations.mcnemar_p IS 'of the exact paired test';
COMMENT ON COLUMN v_iterations.decision IS 'promote, keep or needs_more_data';
COMMENT ON COLUMN v_iterations.started IS 'UTC';
COMMENT ON COLUMN v_iterations.finished IS 'UTC; NULL while it runs';

COMMENT ON VIEW v_behaviour IS 'Collected and evaluated trajectories with what suspicion is judged by';
COMMENT ON COLUMN v_behaviour.campaign IS 'campaign';
COMMENT ON COLUMN v_behaviour.iteration IS 'iteration';
COMMENT ON COLUMN v_behaviour.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_behaviour.trajectory IS 'traj_…';
COMMENT ON COLUMN v_behaviour.policy IS 'policy_…';
COMMENT ON COLUMN v_behaviour.task IS 'task_…';
COMMENT ON COLUMN v_behaviour.environment IS 'of the task';
COMMENT ON COLUMN v_behaviour.family IS 'of the task';
COMMENT ON COLUMN v_behaviour.model_tokens IS 'produced by the model';
COMMENT ON COLUMN v_behaviour.model_turns IS 'of the model';
COMMENT ON COLUMN v_behaviour.tool_calls IS 'calls';
COMMENT ON COLUMN v_behaviour.tool_errors IS 'tool turns that were complaints';
COMMENT ON COLUMN v_behaviour.actions IS 'hash of the action sequence';
COMMENT ON COLUMN v_behaviour.success IS '0 to 1';
COMMENT ON COLUMN v_behaviour.solved IS 'success of at least 0.5';

COMMENT ON VIEW v_suspicious IS 'Successes that a person should look at';
COMMENT ON COLUMN v_suspicious.campaign IS 'campaign';
COMMENT ON COLUMN v_suspicious.iteration IS 'iteration';
COMMENT ON COLUMN v_suspicious.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_suspicious.trajectory IS 'traj_…';
COMMENT ON COLUMN v_suspicious.task IS 'task_…';
COMMENT ON COLUMN v_suspicious.family IS 'of the task';
COMMENT ON COLUMN v_suspicious.reason IS 'no tool, one for many, length, or all failed';

COMMENT ON VIEW v_drift IS 'How behaviour moves from iteration to iteration';
COMMENT ON COLUMN v_drift.campaign IS 'campaign';
COMMENT ON COLUMN v_drift.iteration IS 'iteration';
COMMENT ON COLUMN v_drift.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_drift.trajectories IS 'count';
COMMENT ON COLUMN v_drift.success IS 'mean';
COMMENT ON COLUMN v_drift.model_tokens IS 'mean of a trajectory';
COMMENT ON COLUMN v_drift.tool_calls IS 'mean of a trajectory';
COMMENT ON COLUMN v_drift.tool_errors IS 'share of the calls';
COMMENT ON COLUMN v_drift.solved_without_tool IS 'share of the successes';
COMMENT ON COLUMN v_drift.repeated IS 'share of trajectories whose actions another of the same task has';
COMMENT ON COLUMN v_drift.suspicious IS 'share of the successes';

COMMENT ON VIEW v_tokens IS 'Tokens of each trajectory, read from the shards';
COMMENT ON COLUMN v_tokens.trajectory IS 'traj_…';
COMMENT ON COLUMN v_tokens.token_ids IS 'all ids in order';
COMMENT ON COLUMN v_tokens.mask IS 'true where the model produced the token';
COMMENT ON COLUMN v_tokens.logprobs IS 'of what was produced, untempered; 0 elsewhere';
COMMENT ON COLUMN v_tokens.shard IS 'path of the file';

COMMENT ON VIEW v_spans IS 'Each turn with its tokens, read from the shards';
COMMENT ON COLUMN v_spans.trajectory IS 'traj_…';
COMMENT ON COLUMN v_spans.position IS 'of the turn, from 0';
COMMENT ON COLUMN v_spans.role IS 'user, model or tool';
COMMENT ON COLUMN v_spans.tool IS 'called or answering';
COMMENT ON COLUMN v_spans.text IS 'of the turn';
COMMENT ON COLUMN v_spans.token_ids IS 'of the turn';
COMMENT ON COLUMN v_spans.logprobs IS 'of the turn';
COMMENT ON COLUMN v_spans.mask IS 'of the turn: all true for the model, else all false';
