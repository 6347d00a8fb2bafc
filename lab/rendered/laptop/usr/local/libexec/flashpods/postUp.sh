#!/bin/bash
wg set wg0 private-key <(cat /etc/wireguard/private.key)