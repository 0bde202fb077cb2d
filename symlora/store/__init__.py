"""Write, lock, read and verify run folders."""
