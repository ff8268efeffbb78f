//! Opens dm-verity devices by ioctl and finds partitions; shared by initrd and init.
