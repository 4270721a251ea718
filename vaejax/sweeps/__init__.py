"""Many runs as few programs: members, groups, launching, tables."""
