select json_group_array(json_array(wanted, expires_at))
  from conveyor_listeners
 where handle <> :handle
