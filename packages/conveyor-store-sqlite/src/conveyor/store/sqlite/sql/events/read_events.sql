select json_group_array(json_array(id, case when source <> :handle then body end))
  from (
    select id, source, body
      from conveyor_events
     where id > :after
     order by id
     limit 1000
  )
