# HOST's backups are carried to LAPTOP, which stands for a place of theirs, by restic over ssh.
{
  services.flashpods.backup.restic = {
    enable = true;
    repository = "sftp:root@192.0.2.2:/srv/flashpods";
    passwordFile = "/etc/flashpods/restic-password";
  };
  programs.ssh.extraConfig = ''
    Host 192.0.2.2
      IdentityFile /etc/flashpods/restic-key
      StrictHostKeyChecking accept-new
  '';
}
