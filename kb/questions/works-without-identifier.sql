-- title: Which works have no verified identifier?
-- description: Works without an arXiv identifier, and how the entry was checked.
SELECT key AS work, title, authors, year, venue, verified_by, note
FROM works
WHERE arxiv IS NULL
ORDER BY year, key
