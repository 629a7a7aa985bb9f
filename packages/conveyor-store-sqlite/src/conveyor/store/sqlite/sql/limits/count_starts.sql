-- The starts of each target in a window, and the one that must leave it before one more may be there when it is
-- full.
with ends (target, latest, before, first) as (
  select
    e.value,
    (
      select s.total
        from conveyor_starts s
       where s.queue = :queue
         and s.kind = :kind
         and s.target = e.value
         and s.at > :since
         and s.at <= :now
       order by s.at desc
       limit 1
    ),
    (
      select s.total - s.starts
        from conveyor_starts s
       where s.queue = :queue
         and s.kind = :kind
         and s.target = e.value
         and s.at > :since
         and s.at <= :now
       order by s.at
       limit 1
    ),
    (
      select s.at
        from conveyor_starts s
       where s.queue = :queue
         and s.kind = :kind
         and s.target = e.value
         and s.at > :since
         and s.at <= :now
       order by s.at
       limit 1
    )
    from json_each(:targets) e
)
select json_group_array(
  json_array(
    target,
    latest - before,
    case when latest - before > :max then (
      select s.at
        from conveyor_starts s
       where s.queue = :queue
         and s.kind = :kind
         and s.target = ends.target
         and s.at > :since
         and s.total > latest - :max
       order by s.at
       limit 1
    ) else first end
  )
)
  from ends
 where latest is not null
