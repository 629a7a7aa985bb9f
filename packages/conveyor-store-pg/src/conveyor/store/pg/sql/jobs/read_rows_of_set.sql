-- The same, for the jobs of a set: those that are still in it when they are locked.
select
  {include row_columns}
  from (
    select seq
      from unnest(%(seqs)s::bigint[]) s (seq)
     order by seq
  ) s
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = s.seq
      and {terms}
   offset 0
      for update
 ) j
