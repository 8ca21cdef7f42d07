-- $campaign. Every look of the gate, in order, with the guards that it asked.
SELECT v.iteration, v.look, v.looks, v.alpha, v.evidence, v.needed, c.block, e.tasks, v.difference, v.mcnemar_p, v.decision,
       v.reason,
       (SELECT list({environment: g.environment, difference: g.difference, bound: g.bound, margin: g.margin}
                    ORDER BY g.position)
        FROM verdict_guards g WHERE g.verdict = v.id) AS guards
FROM verdicts v
LEFT JOIN evaluations e ON e.id = v.challenger
LEFT JOIN contests c ON c.campaign = v.campaign AND c.iteration = v.iteration AND c.adapter = v.adapter
WHERE v.campaign = $campaign
ORDER BY v.iteration, v.number
