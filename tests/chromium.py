"""Headless Chromium that has no network, at any size, light or dark."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
MISSING = 'the Debian packages chromium and chromium-driver are not installed'
FLAGS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
    '--disable-dev-shm-usage',
)


def is_missing():
    """Whether tests in a browser must be skipped; where CI is set a missing one is an error."""
    missing = BROWSER is None or DRIVER is None
    assert not (missing and os.environ.get('CI')), MISSING
    return missing


@contextlib.contextmanager
def chromium():
    """A selenium driver with a profile of its own."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in (*FLAGS, f'--user-data-dir={profile}'):
            options.add_argument(flag)
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        try:
            set_window(driver, 1400, 900)
            yield driver
        finally:
            driver.quit()


def set_window(driver, width, height, scheme='light'):
    """Size of the page in pixels, and what the system prefers: 'light' or 'dark'."""
    size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})


def show(driver, path, address=''):
    """Load a page anew; ``address`` is what stands behind '#'."""
    driver.get('about:blank')
    driver.get(f'{Path(path).resolve().as_uri()}#{address}')


def requests(driver):
    """Addresses requested since the last call."""
    messages = (json.loads(entry['message'])['message'] for entry in driver.get_log('performance'))
    return [
        message['params']['request']['url']
        for message in messages
        if message['method'] == 'Network.requestWillBeSent'
    ]
