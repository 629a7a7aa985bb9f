-- Groups to look at again; those parked for longer than any window were so by a clock that was set back.
update conveyor_groups
   set parked_for = '',
       parked_until = null
 where queue = :queue
   and grp in (
     select grp
       from conveyor_groups
            indexed by conveyor_groups_parked
      where queue = :queue
        and parked_for <> ''
        and parked_until <= :now
     union all
     select grp
       from conveyor_groups
            indexed by conveyor_groups_parked
      where queue = :queue
        and parked_for <> ''
        and parked_until > :latest
   )
