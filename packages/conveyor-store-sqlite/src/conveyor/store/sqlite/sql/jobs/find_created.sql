-- Which of the rows just written are there: the others met a conflict.
select json_group_array(seq)
  from conveyor_jobs
 where seq > :after
