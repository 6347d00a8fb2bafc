# One disk, by disko: what jobs fill is a file system of its own, so that a full one stops no host.
{ modulesPath, ... }:
{
  imports = [ (modulesPath + "/profiles/qemu-guest.nix") ]; # a rented machine; remove it on metal

  nixpkgs.hostPlatform = "x86_64-linux";
  # With BIOS and UEFI alike; disko tells GRUB the disk.
  boot.loader.grub = {
    efiSupport = true;
    efiInstallAsRemovable = true;
  };

  disko.devices.disk.main = {
    type = "disk";
    device = "/dev/sda"; # lsblk on the machine says which
    content = {
      type = "gpt";
      partitions = {
        bios = {
          size = "1M";
          type = "EF02";
        };
        boot = {
          size = "1G";
          type = "EF00";
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "40G";
          content = {
            type = "filesystem";
            format = "ext4";
            mountpoint = "/";
          };
        };
        jobs = {
          size = "100%";
          content = {
            type = "filesystem";
            format = "xfs"; # many small files, deleted soon
            mountpoint = "/var/lib/flashpods";
          };
        };
      };
    };
  };
}
