-- The jobs of one rank of a lane that are older than a given one, newest first.
select json_group_array(json_array(rank, place))
  from (
    select rank, place
      from (
        select rank, place
          from conveyor_jobs
         where {lane}
           and rank = :rank
           and place > -:before
           and place < 0
         order by place
         limit :count
      )
    union all
    select rank, place
      from (
        select rank, place
          from conveyor_jobs
         where {lane}
           and rank = :rank
           and place > 0
           and place < :before
         order by place desc
         limit :count
      )
  )
