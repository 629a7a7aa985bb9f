-- The jobs of one sort key of a sub-queue that are older than a given one, newest first.
select json_group_array(json_array(sort_key, tie_break))
  from (
    select sort_key, tie_break
      from (
        select sort_key, tie_break
          from conveyor_jobs
         where {subqueue}
           and sort_key = :sort_key
           and tie_break > -:before
           and tie_break < 0
         order by tie_break
         limit :count
      )
    union all
    select sort_key, tie_break
      from (
        select sort_key, tie_break
          from conveyor_jobs
         where {subqueue}
           and sort_key = :sort_key
           and tie_break > 0
           and tie_break < :before
         order by tie_break desc
         limit :count
      )
  )
