-- The jobs of a lane behind a place, most urgent first.
select json_group_array(json_array(rank, place))
  from (
    select rank, place
      from conveyor_jobs
     where {lane}
       and (rank, place) > (:rank, :place)
     order by rank, place
     limit :count
  )
