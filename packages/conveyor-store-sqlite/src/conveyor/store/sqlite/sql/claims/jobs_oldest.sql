-- The jobs of a sub-queue behind a position, most urgent first.
select json_group_array(json_array(sort_key, tie_break))
  from (
    select sort_key, tie_break
      from conveyor_jobs
     where {subqueue}
       and (sort_key, tie_break) > (:sort_key, :tie_break)
     order by sort_key, tie_break
     limit :count
  )
