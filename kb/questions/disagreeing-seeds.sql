-- title: Which two of the works km implements disagree, and on what?
-- description: Pairs where one contradicts a node that the other proposes or supports.
SELECT n.id AS node, n.name, a.work AS contradicting, a.note AS contradicting_note,
       b.work AS holding, b.relation, b.note AS holding_note,
       a.evidence || ' / ' || b.evidence AS edge_evidence
FROM edges AS a
JOIN edges AS b ON b.node = a.node AND b.work <> a.work AND b.relation IN ('proposes', 'supports')
JOIN nodes AS n ON n.id = a.node
WHERE a.relation = 'contradicts'
  AND a.work IN (SELECT work FROM seed_places) AND b.work IN (SELECT work FROM seed_places)
ORDER BY n.tree_enter, a.work, b.work
