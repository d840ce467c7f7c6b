#!/usr/bin/python3
"""The server's page in headless Chromium: python3-selenium, chromium and chromium-driver of Debian.

  tests/page/page_test.py build/zoe [--screenshots FOLDER]

Starts a server of the embedded models on a free port and uses the page as people do. Run by ./dev test-page, not by the gate.
"""
import argparse
import base64
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

PICTURE = pathlib.Path(__file__).resolve().parents[2] / "models/toy-wan-i2v/circle.png"
parser = argparse.ArgumentParser()
parser.add_argument("zoe")
parser.add_argument("--screenshots", type=pathlib.Path)
arguments, others = parser.parse_known_args()

# As a person does it: the bytes arrive as a file that is dropped on an element.
DROP = """const [zone, name, text] = arguments;
const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, {type: 'image/png'}));
for (const event of ['dragover', 'drop']) zone.dispatchEvent(new DragEvent(event, {dataTransfer: data, bubbles: true, cancelable: true}));"""


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = subprocess.Popen([arguments.zoe, "serve", "--port", "0", "--data-dir", cls.folder.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        cls.address = next(found.group() for line in cls.server.stdout if (found := re.search(r"http://\S+", line)))
        options = Options()
        for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"):
            options.add_argument(each)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        cls.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)

    @classmethod
    def tearDownClass(cls):
        cls.driver.quit()
        cls.server.terminate()
        assert cls.server.wait(60) == 0, "the server's exit code"
        cls.folder.cleanup()

    def setUp(self):
        self.driver.get(self.address)
        self.wait(lambda: self.all("select[name=model] option"), "models in the form")
        self.driver.execute_script("localStorage.clear()")
        self.driver.refresh()
        self.wait(lambda: self.all("select[name=model] option"), "models in the form")

    def tearDown(self):
        # An answer of 4xx is a line, too: the page shows its text.
        said = [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE" and "status of 4" not in line["message"]]
        self.assertEqual(said, [], "errors in the browser's log")

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition, what, seconds=60):
        def holds(_):
            try:
                return condition()
            except Exception:  # an element that was replaced while it was read
                return False
        return WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(holds, f"waited for {what}")

    def set(self, name, value):
        field = self.one(f"[name={name}]")
        field.clear()
        field.send_keys(str(value))

    def shot(self, name):
        if arguments.screenshots:
            arguments.screenshots.mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(arguments.screenshots / f"{name}.png"))

    def begin(self, prompt, steps):
        self.set("prompt", prompt)
        self.set("num_inference_steps", steps)
        self.one("[type=submit]").click()
        return self.wait(lambda: self.card("queue", prompt), "the job in the queue")

    def card(self, where, prompt):
        return next((card for card in self.all(f"#{where} > li") if prompt in card.text), None)

    def test_start_watch_and_play(self):
        prompt = "a yellow star spinning on a navy background"
        self.set("prompt", prompt)
        self.wait(lambda: "128 × 128, 33 frames" in self.one("#plan").text, "what the plan says")
        self.begin(prompt, 60)
        self.wait(lambda: "step" in self.card("queue", prompt).text, "steps")
        self.wait(lambda: self.card("queue", prompt).find_elements(By.CSS_SELECTOR, ".picture img"), "a preview")
        self.wait(lambda: float(self.card("queue", prompt).find_element(By.TAG_NAME, "progress").get_property("value")) > 0, "progress")
        self.shot("running")
        self.wait(lambda: self.card("gallery", prompt), "the video", 120)
        self.shot("gallery")
        self.card("gallery", prompt).find_element(By.TAG_NAME, "button").click()
        self.wait(lambda: self.driver.execute_script("const v = document.querySelector('#player video'); return v && v.readyState >= 2 && v.videoWidth"), "frames of the video")
        self.assertEqual(self.driver.execute_script("const v = document.querySelector('#player video'); return [v.videoWidth, v.videoHeight]"), [128, 128])
        self.shot("viewer")
        seed = self.one("#settings").text
        self.one("#again").click()
        self.wait(lambda: self.card("queue", prompt), "the same with another seed")
        self.wait(lambda: len([card for card in self.all("#gallery > li") if prompt in card.text]) == 2, "the second video", 120)
        self.all("#gallery > li button")[0].click()
        self.wait(lambda: self.one("#settings").text, "settings")
        self.assertNotEqual(self.one("#settings").text, seed)
        self.one("#delete").click()
        self.wait(lambda: len([card for card in self.all("#gallery > li") if prompt in card.text]) == 1, "one video fewer")

    def test_cancel(self):
        self.begin("a red square to cancel", 1000)
        self.wait(lambda: "step" in self.card("queue", "to cancel").text, "steps")
        self.card("queue", "to cancel").find_element(By.TAG_NAME, "button").click()
        self.wait(lambda: "Cancelled" in self.card("gallery", "to cancel").text, "the word that it was cancelled")
        self.wait(lambda: not self.card("queue", "to cancel"), "an empty queue")

    def test_reload_in_the_middle(self):
        self.begin("a green circle after a reload", 1000)
        self.wait(lambda: "step" in self.card("queue", "after a reload").text, "steps")
        self.driver.refresh()
        self.wait(lambda: "step" in self.card("queue", "after a reload").text, "the job, still there")
        self.assertEqual(self.one("[name=prompt]").get_property("value"), "a green circle after a reload")
        self.card("queue", "after a reload").find_element(By.TAG_NAME, "button").click()
        self.wait(lambda: not self.card("queue", "after a reload"), "its end")

    def test_drop_an_image(self):
        Select(self.one("[name=model]")).select_by_value("toy-wan-i2v")
        zone = self.wait(lambda: self.all(".drop"), "a place for the image")[0]
        self.driver.execute_script(DROP, zone, "circle.png", base64.b64encode(PICTURE.read_bytes()).decode())
        self.wait(lambda: self.driver.execute_script("return document.querySelector('.drop img')?.naturalWidth > 0"), "the picture")
        self.begin("the red circle moves to the right", 8)
        self.shot("image")
        self.wait(lambda: self.card("gallery", "the red circle moves"), "the video", 120)

    def test_two_tabs(self):
        first = self.driver.current_window_handle
        self.begin("a blue triangle in two tabs", 1000)
        self.driver.switch_to.new_window("tab")
        self.driver.get(self.address)
        self.wait(lambda: "step" in self.card("queue", "in two tabs").text, "the job in the second tab")
        self.card("queue", "in two tabs").find_element(By.TAG_NAME, "button").click()
        self.wait(lambda: "Cancelled" in self.card("gallery", "in two tabs").text, "its end in the second tab")
        self.driver.close()
        self.driver.switch_to.window(first)
        self.wait(lambda: "Cancelled" in self.card("gallery", "in two tabs").text, "its end in the first tab")

    def test_keyboard_alone(self):
        prompt = self.one("[name=prompt]")
        prompt.send_keys("a white star by keyboard")
        self.set("num_inference_steps", 2)
        prompt.send_keys(Keys.CONTROL, Keys.ENTER)
        card = self.wait(lambda: self.card("gallery", "by keyboard"), "the video", 120)
        card.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        self.wait(lambda: self.one("#viewer").get_property("open"), "the viewer")
        self.one("#viewer").send_keys(Keys.ESCAPE)
        self.wait(lambda: not self.one("#viewer").get_property("open"), "its end")

    def test_a_wrong_value_is_said(self):
        self.set("prompt", "a star")
        self.set("width", 100000)
        self.wait(lambda: "width" in self.one("#plan").text and "bad" in self.one("#plan").get_attribute("class"), "the server's line")
        self.assertEqual(self.all("#queue > li"), [])

    def test_on_a_phone(self):
        size = self.driver.get_window_size()
        self.driver.set_window_size(500, 1000)  # the narrowest window Chromium makes
        self.assertLessEqual(self.driver.execute_script("return document.documentElement.scrollWidth - innerWidth"), 0)
        self.shot("phone")
        self.driver.set_window_size(size["width"], size["height"])


if __name__ == "__main__":
    unittest.main(argv=["page_test.py", *others], verbosity=2)
