-- Whole rows of a set, in its order; the columns in that of rows.py. The set is chosen in the same statement: by
-- another one, jobs that had left it since were returned.
select
  {include record_columns}
  from unnest(array(
{seqs}
  )) with ordinality s (seq, n)
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = s.seq
   offset 0
 ) j
 order by s.n
