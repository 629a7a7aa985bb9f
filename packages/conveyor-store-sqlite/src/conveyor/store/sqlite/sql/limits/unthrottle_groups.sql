-- Groups to look at again; those throttled for longer than any window were so by a clock that was set back.
update conveyor_groups
   set throttled_for = '',
       throttled_until = null
 where queue = :queue
   and grp in (
     select grp
       from conveyor_groups
            indexed by conveyor_groups_throttled
      where queue = :queue
        and throttled_for <> ''
        and throttled_until <= :now
     union all
     select grp
       from conveyor_groups
            indexed by conveyor_groups_throttled
      where queue = :queue
        and throttled_for <> ''
        and throttled_until > :latest
   )
